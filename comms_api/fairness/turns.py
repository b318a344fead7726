"""Let groups of waiting work take turns, however much of it each group has."""

import asyncio
from collections import deque


class Turns:
    """The pieces of work that wait, by group. A piece whose task was cancelled is skipped."""

    def __init__(self) -> None:
        self._waiting: dict[object, deque[asyncio.Future[None]]] = {}
        """The first group is next."""

    def __bool__(self) -> bool:
        """Return whether any piece waits."""
        return bool(self._waiting)

    def join(self, group: object) -> "asyncio.Future[None]":
        """Return a future that is done when the turn of this piece has come."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(group, deque()).append(turn)
        return turn

    def grant(self) -> bool:
        """Grant the next turn; return False if no piece waits."""
        while self._waiting:
            group = next(iter(self._waiting))
            turns = self._waiting.pop(group)
            turn = turns.popleft()
            if turns:
                self._waiting[group] = turns  # at the end of the queue
            if not turn.done():  # otherwise its task was cancelled
                turn.set_result(None)
                return True
        return False
