"""Let groups of waiting work take turns, however much of it each group has.

A new group comes before the groups that have had a turn; after its first turn, it joins the end of their queue. So a
group with little work hardly waits, as in fair queues of networks (RFC 8290, 4.2).
"""

import asyncio
from collections import deque
from typing import TypeAlias

NEW_IN_A_ROW = 3
"""After this many turns of new groups, one of the others has a turn."""

_Waiting: TypeAlias = dict[object, deque["asyncio.Future[None]"]]


class Turns:
    """The pieces of work that wait, by group. A piece whose task was cancelled is skipped."""

    def __init__(self) -> None:
        self._new: _Waiting = {}
        """The groups that have had no turn; the first is next."""

        self._served: _Waiting = {}
        """The groups that have had a turn; the first is next. A group for which nothing waits is forgotten then."""

        self._new_in_a_row = 0
        self._count = 0

    def __bool__(self) -> bool:
        """Return whether any piece waits."""
        return self._count > 0

    def join(self, group: object) -> "asyncio.Future[None]":
        """Return a future that is done when the turn of this piece has come."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._served.get(group)
        if waiting is None:
            waiting = self._new.setdefault(group, deque())
        waiting.append(turn)
        self._count += 1
        return turn

    def grant(self) -> bool:
        """Grant the next turn; return False if no piece waits."""
        first, second = self._new, self._served
        if self._new_in_a_row >= NEW_IN_A_ROW:
            first, second = second, first
        return self._grant_one_of(first) or self._grant_one_of(second)

    def grant_new(self) -> bool:
        """Grant a turn to a group that has had none; return False if no such group waits."""
        return self._grant_one_of(self._new)

    def _grant_one_of(self, groups: _Waiting) -> bool:
        self._new_in_a_row = self._new_in_a_row + 1 if groups is self._new else 0
        while groups:
            group = next(iter(groups))
            waiting = groups.pop(group)
            if not waiting:
                continue
            turn = waiting.popleft()
            self._count -= 1
            self._served[group] = waiting  # at the end of the queue
            if not turn.done():  # otherwise its task was cancelled
                turn.set_result(None)
                return True
        return False
