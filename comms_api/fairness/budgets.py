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

TARGET_SECONDS = 0.5
"""The time in which an `AdaptiveBudget` aims to have a request finished, apart from waiting for its client."""

CLIENTS_TO_FILL = 8
"""At least this many clients are needed to fill an `AdaptiveBudget`."""

LEAST_FRACTION = 8
"""The limit of an `AdaptiveBudget` is at least 1/LEAST_FRACTION of its total."""


class _Wait(msgspec.Struct, frozen=True, eq=False):
    size: int
    already: int
    granted: "asyncio.Future[None]"


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
        self._waiting: dict[Hashable, deque[_Wait]] = {}
        """By client; the first client is next."""

    async def acquire(self, client: Hashable, size: int, already: int = 0) -> None:
        """Hold `size` more bytes for a request of a client once there is room; `already` are the bytes that it holds.

        Raises `Unavailable` if that takes too long. A single request may exceed the share or the total if no other
        request holds bytes. A request that holds some has been admitted: it does not wait behind other requests.
        """
        wait = _Wait(size, already, asyncio.get_running_loop().create_future())
        if (already or not self._waiting) and self._has_room(wait) and self._has_share(client, wait):
            self._hold(client, size)
            return
        self._waiting.setdefault(client, deque()).append(wait)
        self._grant()
        try:
            async with asyncio.timeout(self._wait_seconds):
                await wait.granted
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

    def _has_room(self, wait: _Wait) -> bool:
        limit = self._total if wait.already else self.limit
        return self.held + wait.size <= limit or self.held == wait.already

    def _has_share(self, client: Hashable, wait: _Wait) -> bool:
        held = self._held_by.get(client, 0)
        return held + wait.size <= self._share or held == wait.already

    def _grant(self) -> None:
        """Grant room to one client after the other, and stop at the first request that does not fit."""
        for client in list(self._waiting):
            waits = self._waiting[client]
            while waits and waits[0].granted.done():
                waits.popleft()  # it was cancelled, but has not yet run to withdraw
            if not waits:
                del self._waiting[client]
                continue
            if not self._has_room(waits[0]):
                return
            if self._has_share(client, waits[0]):
                wait = waits.popleft()
                self._hold(client, wait.size)
                wait.granted.set_result(None)
                del self._waiting[client]
                if waits:
                    self._waiting[client] = waits  # at the end of the queue

    def _withdraw(self, client: Hashable, wait: _Wait) -> None:
        if wait.granted.done() and not wait.granted.cancelled():
            self.release(client, wait.size)  # it was granted at the same moment
            return
        waits = self._waiting.get(client, deque())
        if wait in waits:
            waits.remove(wait)
            if not waits:
                del self._waiting[client]
        self._grant()

    def _refusal(self, client: Hashable, wait: _Wait) -> Unavailable:
        if not self._has_share(client, wait):
            return Unavailable(
                "Your requests and answers use your whole share of this node's memory; wait until they end."
            )
        return Unavailable("This node has no room left for more requests; try again later.")


class AdaptiveBudget(ByteBudget):
    """Bytes that requests hold until they are finished: as many as the node finishes in `TARGET_SECONDS`.

    By Little's law, a node that holds H bytes and finishes a request in T seconds finishes H / T bytes per second. Each
    finished byte moves the limit by at most one byte towards what this rate allows, so a client moves it only with as
    many bytes as the others. The total, which is for memory, is the largest limit. A request larger than the limit is
    admitted when all others together hold at most the share of one client.
    """

    def __init__(self, total: int, wait_seconds: float) -> None:
        super().__init__(total, total, wait_seconds)
        self._limit_minimum = total // LEAST_FRACTION
        self._set_limit(self._limit_minimum)

    def learn(self, size: int, held: int, seconds: float) -> None:
        """Note that a request of `size` bytes was finished in `seconds`; `held` were held when it was admitted."""
        aim = held * TARGET_SECONDS / max(seconds, 0.001)
        step = size * max(-1.0, min(1.0, aim / self.limit - 1))
        self._set_limit(max(self._limit_minimum, min(self._total, round(self.limit + step))))

    def _has_room(self, wait: _Wait) -> bool:
        # A request larger than the limit would never be alone on a node where a client stalls, and would block others.
        may_exceed = wait.size > self.limit and self.held <= self._share
        return super()._has_room(wait) or (may_exceed and self.held + wait.size <= self._total)

    def _set_limit(self, limit: int) -> None:
        self.limit, self._share = limit, limit // CLIENTS_TO_FILL


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
