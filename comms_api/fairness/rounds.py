"""Spread work that many clients cause at once over the rounds of the event loop.

Tasks that are ready at the same time run in one round, and everybody else waits for its end. A queue lets a few pieces
of one kind of work begin in each round. Groups of clients take turns, so a client with much work delays one of another
group by one piece.
"""

import asyncio
from collections import deque
from collections.abc import Hashable


class RoundQueue:
    """The pieces of one kind of work that could begin now; at most `per_round` do in each round of the event loop."""

    def __init__(self, per_round: int = 1) -> None:
        self._per_round = per_round
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}
        """By group; the first group is next."""

    async def wait_for_turn(self, group: Hashable) -> None:
        """Return when a piece of this group's work may begin."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._grant)
        self._waiting.setdefault(group, deque()).append(turn)
        await turn

    def _grant(self) -> None:
        """Grant the turns of this round; the next ones come in the next round."""
        left = self._per_round
        while self._waiting and left:
            group = next(iter(self._waiting))
            turns = self._waiting.pop(group)
            turn = turns.popleft()
            if not turn.done():  # otherwise its request or connection was cancelled
                turn.set_result(None)
                left -= 1
            if turns:
                self._waiting[group] = turns  # at the end of the queue
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._grant)
