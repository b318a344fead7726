"""Bound how much of one client's work is in progress at once."""

import asyncio
from collections.abc import Hashable

from comms_api.fairness.slots import Slots


class Concurrency:
    """Lets each client have at most `maximum` pieces of work in progress; its other pieces wait in order."""

    def __init__(self, maximum: int, wait_seconds: float) -> None:
        self._maximum = maximum
        self._wait_seconds = wait_seconds
        self._slots: dict[Hashable, Slots] = {}
        """Of the clients with work in progress."""

    async def begin(self, client: Hashable) -> None:
        """Return when a piece may begin; raises `TimeoutError` when that takes longer than `wait_seconds`."""
        slots = self._slots.get(client)
        if slots is None:
            slots = self._slots[client] = Slots(self._maximum)
        if slots.take_free():
            return
        try:
            async with asyncio.timeout(self._wait_seconds):
                await slots.acquire(client)
        except BaseException:
            self._forget_if_unused(client)
            raise

    def end(self, client: Hashable) -> None:
        """End a piece, and let the next one of its client begin."""
        self._slots[client].release()
        self._forget_if_unused(client)

    def _forget_if_unused(self, client: Hashable) -> None:
        slots = self._slots.get(client)
        if slots is not None and slots.free == self._maximum:
            del self._slots[client]
