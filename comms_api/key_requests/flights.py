"""Let all nodes together ask the sources about an agent once at a time, and share their refusals."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import uuid4

from comms_api.database.connection import Engine
from comms_api.errors import Unavailable
from comms_api.key_requests import store
from comms_api.key_requests.model import ExternalAgent, Question, Refusal

MARGIN_SECONDS = 5.0
"""A claim outlives its lookup by this; then the node that has it is dead."""

PAUSE_SECONDS = 0.1


class AskedElsewhere(Unavailable):
    """Another node has just looked this agent up; try again."""


class Flights:
    """Claims of questions, in the database."""

    def __init__(self, engine: Engine, lookup_seconds: float, refusal_seconds: float) -> None:
        self._engine = engine
        self._claim_seconds = lookup_seconds + MARGIN_SECONDS
        self._refusal_seconds = refusal_seconds

    async def look_up(
        self, question: Question, ask: Callable[[], Awaitable[ExternalAgent | Refusal]]
    ) -> ExternalAgent | Refusal | None:
        """Return the answer of `ask`, or a recent refusal of any node; None while another node asks."""
        holder = uuid4()
        async with self._engine.connect() as connection:
            is_ours = await store.claim(connection, question, holder, self._claim_seconds)
            found = False if is_ours else await store.find(connection, question)
        if not is_ours:
            return found if isinstance(found, Refusal) else None
        outcome = None
        try:
            outcome = await ask()
        finally:
            async with self._engine.connect() as connection:
                if isinstance(outcome, Refusal) and self._refusal_seconds:
                    await store.refuse(connection, question, holder, outcome, self._refusal_seconds)
                else:
                    await store.release(connection, question, holder)
        return outcome

    async def wait(self, question: Question) -> Refusal:
        """Wait while another node asks, and return its refusal; raises `AskedElsewhere` if it ended otherwise."""
        found: Refusal | bool = True
        while found is True:
            await asyncio.sleep(PAUSE_SECONDS)
            async with self._engine.connect() as connection:
                found = await store.find(connection, question)
        if isinstance(found, Refusal):
            return found
        raise AskedElsewhere
