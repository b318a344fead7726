"""Admit as many bytes as a node can finish soon, and let admitted requests grow until they are complete."""

import asyncio
from collections.abc import Hashable

import msgspec

from comms_api.errors import Unavailable
from comms_api.fairness.budgets import ByteBudget, Wait

TARGET_SECONDS = 0.5
"""The time in which an `AdaptiveBudget` aims to have a request finished, apart from waiting for its client."""

CLIENTS_TO_FILL = 8
"""At least this many clients are needed to fill an `AdaptiveBudget`."""

LEAST_FRACTION = 8
"""The limit of an `AdaptiveBudget` is at least 1/LEAST_FRACTION of its total."""

SPARE_FRACTION = 2
"""At most 1/SPARE_FRACTION of the total is kept free for the first request that grows."""


class Holding(msgspec.Struct, eq=False):
    """The bytes that one request holds; if `may_grow`, the request may ask for more."""

    client: Hashable
    may_grow: bool = True
    size: int = 0


class AdaptiveBudget(ByteBudget):
    """Bytes that requests hold until they are finished: as many as the node finishes in `TARGET_SECONDS`.

    By Little's law, a node that holds H bytes and finishes a request in T seconds finishes H / T bytes per second. Each
    finished byte moves the limit by at most one byte towards what this rate allows, so a client moves it only with as
    many bytes as the others. The total, which is for memory, is the largest limit. A request larger than the limit is
    admitted when all others together hold at most the share of one client.

    Requests that grow could fill the total, and then each would wait for the others. So they leave room for the
    `largest` request, which only the first of them uses. When it is complete, the next one is the first, so they finish
    one after the other. A request whose client keeps the node waiting goes to the end of this order.
    """

    def __init__(self, total: int, largest: int, wait_seconds: float) -> None:
        super().__init__(total, total, wait_seconds)
        self._spare = min(largest, total // SPARE_FRACTION)
        self._growing: dict[Holding, Wait | None] = {}
        """The requests that may grow, in the order of their admission, and the bytes that they wait for."""

        self._limit_minimum = total // LEAST_FRACTION
        self._set_limit(self._limit_minimum)

    async def hold(self, holding: Holding, size: int) -> None:
        """Let a request hold `size` more bytes once there is room; raises `Unavailable` if that takes too long."""
        if holding.size:
            await self._grow(holding, size)
        else:
            await self.acquire(holding.client, size, self._spare if holding.may_grow else 0)
            if holding.may_grow:
                self._growing[holding] = None
        holding.size += size

    def shrink(self, holding: Holding, size: int) -> None:
        """Let a request hold at most `size` bytes."""
        if size < holding.size:
            released, holding.size = holding.size - size, size
            self.release(holding.client, released)

    def defer(self, holding: Holding) -> None:
        """Let the other requests that grow finish before this one."""
        self._growing.pop(holding, None)
        if holding.size:
            self._growing[holding] = None
        self._grant()

    def complete(self, holding: Holding, size: int) -> None:
        """Let a request that does not grow any more hold at most `size` bytes."""
        if holding in self._growing:
            del self._growing[holding]
            self._grant()
        self.shrink(holding, size)

    def learn(self, size: int, held: int, seconds: float) -> None:
        """Note that a request of `size` bytes was finished in `seconds`; `held` were held when it was admitted."""
        aim = held * TARGET_SECONDS / max(seconds, 0.001)
        step = size * max(-1.0, min(1.0, aim / self.limit - 1))
        self._set_limit(max(self._limit_minimum, min(self._total, round(self.limit + step))))

    async def _grow(self, holding: Holding, size: int) -> None:
        if self._may_grow(holding, size):
            self._hold(holding.client, size)
            return
        wait = self._growing[holding] = Wait(size, 0, asyncio.get_running_loop().create_future())
        try:
            await self._wait(wait)
        except BaseException as error:
            if wait.is_granted():
                self.release(holding.client, size)  # it was granted at the same moment
            if isinstance(error, TimeoutError):
                raise Unavailable("This node has no room left for large requests; try again later.") from None
            raise
        finally:
            if holding in self._growing:
                self._growing[holding] = None

    def _may_grow(self, holding: Holding, size: int) -> bool:
        if self.held + size > self._total:
            return self.held == holding.size
        held = self._held_by[holding.client]
        has_share = held + size <= self._share or held == holding.size
        return self._is_first(holding) or (has_share and self.held + size + self._spare <= self._total)

    def _is_first(self, holding: Holding) -> bool:
        return next(iter(self._growing), None) is holding

    def _is_contended(self) -> bool:
        return super()._is_contended() or self._is_first_waiting()

    def _is_first_waiting(self) -> bool:
        first = next(iter(self._growing.values()), None)
        return first is not None and not first.granted.done()

    def _grant(self) -> None:
        """Grant room to requests that grow, the first one first, and then to new ones unless the first one waits."""
        for holding, wait in self._growing.items():
            if wait is not None and not wait.granted.done() and self._may_grow(holding, wait.size):
                self._hold(holding.client, wait.size)
                wait.granted.set_result(None)
        if self._waiting and not self._is_first_waiting():
            super()._grant()

    def _has_room(self, size: int, spare: int) -> bool:
        if super()._has_room(size, spare):
            return True
        # A request larger than the limit would never be alone on a node where a client stalls, and would block others.
        return size > self.limit and self.held <= self._share and self.held + size + spare <= self._total

    def _set_limit(self, limit: int) -> None:
        self.limit, self._share = limit, limit // CLIENTS_TO_FILL
