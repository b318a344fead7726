"""Let groups of waiting work take turns, however much of it each group has.

A group that has just begun to wait goes first. Once it has had a turn, it goes behind the groups that have more work,
until all of them have had one. So a group with little work hardly waits, as in fair queues of networks (RFC 8290, 4.2).
"""

import asyncio
from collections import deque
from typing import TypeAlias

_Waiting: TypeAlias = dict[object, deque["asyncio.Future[None]"]]


class Turns:
    """The pieces of work that wait, by group. A piece whose task was cancelled is skipped."""

    def __init__(self) -> None:
        self._new: _Waiting = {}
        """The groups that have had no turn; the first is next."""

        self._served: _Waiting = {}
        """The groups that have had a turn; the first is next after the new ones. It is forgotten if nothing waits."""

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
        while self._count:
            groups = self._new or self._served
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
