"""Charge requests to the clients that cause them: bytes held in memory, and CPU time of the event loop.

A client is an agent or a user; before a token has been checked, it is an address.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager

import msgspec

from comms_api.errors import TooManyRequests, Unavailable
from comms_api.fairness.concurrency import Concurrency

CPU_SHARE = 0.25
"""The fraction of a core that one client may use permanently."""

CPU_BURST_SECONDS = 2.0
"""The CPU time that a client may use at once without debt."""

CPU_CLIENTS_MAXIMUM = 10_000


class Wait(msgspec.Struct, frozen=True, eq=False):
    """A request that waits for `size` bytes, and leaves `spare` bytes free."""

    size: int
    spare: int
    granted: "asyncio.Future[None]"

    def is_granted(self) -> bool:
        """Return whether the bytes are held."""
        return self.granted.done() and not self.granted.cancelled()


class ByteBudget:
    """Bytes that requests may hold at the same time: `total` for all clients, `share` for each.

    A request without room waits for at most `wait_seconds`. Clients take turns.
    """

    def __init__(self, total: int, share: int, wait_seconds: float) -> None:
        self._total = total
        self.limit = total
        """Another request is admitted only if all clients together hold at most this many bytes with it."""

        self._share = share
        self._wait_seconds = wait_seconds
        self.held = 0
        self._held_by: Counter[Hashable] = Counter()
        self._waiting: dict[Hashable, deque[Wait]] = {}
        """By client; the first client is next."""

    async def acquire(self, client: Hashable, size: int, spare: int = 0) -> None:
        """Hold `size` bytes for a client once there is room and `spare` bytes of the total are left.

        Raises `Unavailable` if that takes too long. A single request may exceed the share or the total if no other
        request holds bytes.
        """
        if not self._is_contended() and self._has_room(size, spare) and self._has_share(client, size):
            self._hold(client, size)
            return
        wait = Wait(size, spare, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(client, deque()).append(wait)
        self._grant()
        try:
            await self._wait(wait)
        except BaseException as error:
            self._withdraw(client, wait)
            if isinstance(error, TimeoutError):
                raise self._refusal(client, wait) from None
            raise

    def release(self, client: Hashable, size: int) -> None:
        """Release `size` bytes, and grant them to waiting requests."""
        self.charge(client, -size)

    def charge(self, client: Hashable, size: int) -> None:
        """Hold `size` more bytes (fewer if negative) even without room, and grant free bytes to waiting requests."""
        self._hold(client, size)
        if not self._held_by[client]:
            del self._held_by[client]
        self._grant()

    def _hold(self, client: Hashable, size: int) -> None:
        self.held += size
        self._held_by[client] += size

    async def _wait(self, wait: Wait) -> None:
        async with asyncio.timeout(self._wait_seconds):
            await wait.granted

    def _is_contended(self) -> bool:
        """Return whether a new request waits behind others, even if there is room."""
        return bool(self._waiting)

    def _has_room(self, size: int, spare: int) -> bool:
        held = self.held + size
        return (held <= self.limit and held + spare <= self._total) or not self.held

    def _has_share(self, client: Hashable, size: int) -> bool:
        held = self._held_by.get(client, 0)
        return held + size <= self._share or not held

    def _grant(self) -> None:
        """Grant room to one client after the other, and stop at the first request that does not fit."""
        for client in list(self._waiting):
            waits = self._waiting[client]
            while waits and waits[0].granted.done():
                waits.popleft()  # it was cancelled, but has not yet run to withdraw
            if not waits:
                del self._waiting[client]
                continue
            wait = waits[0]
            if not self._has_room(wait.size, wait.spare):
                return
            if self._has_share(client, wait.size):
                waits.popleft()
                self._hold(client, wait.size)
                wait.granted.set_result(None)
                del self._waiting[client]
                if waits:
                    self._waiting[client] = waits  # at the end of the queue

    def _withdraw(self, client: Hashable, wait: Wait) -> None:
        if wait.is_granted():
            self.release(client, wait.size)  # it was granted at the same moment
            return
        waits = self._waiting.get(client, deque())
        if wait in waits:
            waits.remove(wait)
            if not waits:
                del self._waiting[client]
        self._grant()

    def _refusal(self, client: Hashable, wait: Wait) -> Unavailable:
        if not self._has_share(client, wait.size):
            return Unavailable(
                "Your requests and answers use your whole share of this node's memory; wait until they end."
            )
        return Unavailable("This node has no room left for more requests; try again later.")


class CpuBudget:
    """CPU time of the event loop: each client has a share; a client that exceeds it must wait with its next batch.

    The batches of one client are read one at a time, so that the cost of each is known before the next begins.
    """

    def __init__(self, wait_seconds: float) -> None:
        self._batches = Concurrency(1, wait_seconds)
        self._used: dict[Hashable, tuple[float, float]] = {}
        """By client: its debt in CPU seconds, and the time of that value."""

    def charge(self, client: Hashable, seconds: float) -> None:
        """Add to the CPU time that a client has used."""
        self._used[client] = (self._owed(client) + seconds, time.monotonic())
        if len(self._used) > CPU_CLIENTS_MAXIMUM:
            self._used = {client: used for client, used in self._used.items() if self._owed(client) > 0}

    def _owed(self, client: Hashable) -> float:
        used, noted_at = self._used.get(client, (0.0, 0.0))
        return max(0.0, used - (time.monotonic() - noted_at) * CPU_SHARE)

    def refuse_debtor(self, client: Hashable) -> None:
        """Raise `TooManyRequests` while a client owes CPU time."""
        excess = self._owed(client) - CPU_BURST_SECONDS
        if excess > 0:
            raise TooManyRequests(
                "Your requests have used more than your share of CPU time; try again later.",
                retry_after_seconds=excess / CPU_SHARE,
            )

    @asynccontextmanager
    async def turn(self, client: Hashable, take_seconds: Callable[[], float]) -> AsyncIterator[None]:
        """Run the blocks of a client one at a time; raises `TooManyRequests` while the client owes CPU time.

        `take_seconds` returns the request's cost so far, which is charged before the next block begins.
        """
        try:
            await self._batches.begin(client)
        except TimeoutError:
            raise TooManyRequests("Your other batches are still being read; send fewer at once.") from None
        try:
            self.refuse_debtor(client)
            yield
        finally:
            self.charge(client, take_seconds())
            self._batches.end(client)
