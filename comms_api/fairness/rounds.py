"""Spread work that many clients cause at once over the rounds of the event loop.

Tasks that are ready at the same time run in one round, and all other tasks wait until it ends. A queue lets one piece
of work begin in each round. Groups of clients take turns, so a busy client delays another group by one piece.
"""

import asyncio
import time
from collections.abc import Iterator
from itertools import islice

from comms_api.fairness.turns import Turns

IDLE_SECONDS = 0.00003
"""The event loop is idle if a round takes no longer than this: an empty one takes 2 to 10 µs, one that continues a
request at least 50 µs.
"""

BUSY_SECONDS = 0.005
"""On a loop that is never idle, a piece of background work begins this long after the previous piece."""


HANDSHAKES = "handshakes"
"""A kind of work whose groups are addresses: TLS handshakes, and the first reads after them."""


def over_rounds(steps: Iterator[object], at_once: int) -> None:
    """Take the next steps, and after each `at_once` of them let a round of the event loop pass."""
    taken = sum(1 for _ in islice(steps, at_once))
    if taken == at_once:
        asyncio.get_running_loop().call_soon(over_rounds, steps, at_once)


class RoundQueue:
    """One piece of work begins in each round of the event loop. Kinds of work take turns, and groups of one kind do."""

    def __init__(self) -> None:
        self._kinds: dict[str, Turns] = {}
        """The first kind is next."""

    async def wait_for_turn(self, group: object, kind: str = "") -> None:
        """Return when a piece of this group's work may begin; it lasts until the caller waits for anything."""
        if not self._has_work():
            self._schedule_round(asyncio.get_running_loop())
        await self._kinds.setdefault(kind, Turns()).join(group)

    def _has_work(self) -> bool:
        return any(self._kinds.values())

    def _schedule_round(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_soon(self._begin_round, loop)

    def _begin_round(self, loop: asyncio.AbstractEventLoop) -> None:
        self._grant()
        if self._has_work():
            self._schedule_round(loop)

    def _grant(self) -> None:
        for kind in list(self._kinds):
            turns = self._kinds.pop(kind)
            self._kinds[kind] = turns  # at the end of the queue
            if turns.grant():
                return


class IdleQueue(RoundQueue):
    """Background work: a piece begins after an idle round, or `BUSY_SECONDS` after the previous piece.

    Pieces of about a millisecond delay other work little, even if they use all remaining CPU time. A handshake of an
    address that has had no turn recently begins in the next round.
    """

    def __init__(self) -> None:
        super().__init__()
        self._scheduled_at = self._granted_at = 0.0

    def _schedule_round(self, loop: asyncio.AbstractEventLoop) -> None:
        self._scheduled_at = time.perf_counter()
        super()._schedule_round(loop)

    def _grant(self) -> None:
        now = time.perf_counter()
        if now - self._scheduled_at < IDLE_SECONDS or now - self._granted_at > BUSY_SECONDS:
            self._granted_at = now
            super()._grant()
        elif HANDSHAKES in self._kinds:
            self._kinds[HANDSHAKES].grant_new()
