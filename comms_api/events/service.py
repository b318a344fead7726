"""Store batches, each answered after its commit, and read what was stored."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeAlias
from uuid import UUID

import msgspec
from asyncpg import UniqueViolationError
from sqlalchemy.ext.asyncio import AsyncEngine

from comms_api.database.coalescing import Coalescer
from comms_api.database.direct import direct
from comms_api.database.uuid7 import DatabaseClock
from comms_api.errors import Outdated, Unavailable
from comms_api.events import store
from comms_api.events.cursors import encode_cursor
from comms_api.events.model import Event, State, StateChange, StatefulBatch, StatelessBatch, StatePlace
from comms_api.events.quarantine import Quarantine
from comms_api.events.results import read_result
from comms_api.events.sinks import Sink
from comms_api.events.states import find_outdated, fold, newest_sequences
from comms_api.http.pages import Page, make_page
from comms_api.protocol import COMMAND_MODULE, ItemResult, OrderResult, ReportOutcome

ATTEMPTS = 5
STATE_WRITERS = 3
"""While one merges and another waits for its commit, a third has PostgreSQL at work."""

ReportResults: TypeAlias = Callable[[UUID, Sequence[OrderResult]], Awaitable[Sequence[ReportOutcome]]]
"""What takes the results that arrive as states of the module `command`."""


class Events:
    """The stateless events of the fleet."""

    def __init__(self, engine: AsyncEngine, clock: DatabaseClock, sink: Sink, quarantine: Quarantine) -> None:
        """Take the clock that ids are made by, and where events and what cannot be one go."""
        self._engine = engine
        self._clock = clock
        self.sink = sink
        self.quarantine = quarantine

    async def append(self, agent_id: UUID, batch: StatelessBatch) -> None:
        """Store a batch and return when it is durable; what cannot be an event goes to the quarantine."""
        if batch.quarantined:
            await self.quarantine.add(agent_id, batch.quarantined)
        if batch.runs:
            await self.sink.append(self._clock.uuid7(), agent_id, batch.runs)

    async def list(self, agent_id: UUID | None, module: str | None, after: UUID | None, limit: int) -> Page[Event]:
        """Return one page of the events in PostgreSQL, oldest first."""
        async with self._engine.connect() as connection:
            found, has_more = await store.list_events(connection, agent_id, module, after, limit)
        return make_page(found, lambda event: str(event.id), has_more=has_more)


class States:
    """The states of the fleet."""

    def __init__(self, engine: AsyncEngine, report_results: ReportResults) -> None:
        """Take who hears of results that arrive as states."""
        self._engine = engine
        self._report_results = report_results
        self.writer = Coalescer[StateChange, ItemResult | Outdated](self._apply, self._refuse)

    async def change(self, agent_id: UUID, batch: StatefulBatch, sequence: int | None = None) -> list[ItemResult]:
        """Apply a batch and return one result per item, in order, after the commit.

        Raises `Outdated`, and changes nothing, when a batch of the agent with a higher number has been applied.
        """
        results = list(batch.refused)
        if changes := [change for change in batch.changes if change.key[1] != COMMAND_MODULE]:
            results += await self._change(agent_id, changes, sequence)
        if reports := [change for change in batch.changes if change.key[1] == COMMAND_MODULE]:
            results += await self._report(agent_id, reports)
        return sorted(results, key=lambda result: result.index)

    async def _change(
        self, agent_id: UUID, changes: Sequence[StateChange], sequence: int | None
    ) -> Sequence[ItemResult]:
        if sequence is not None:
            changes = [msgspec.structs.replace(change, sequence=sequence) for change in changes]
        results: list[ItemResult] = []
        for outcome in await self.writer.submit(agent_id, changes):
            if isinstance(outcome, Outdated):
                raise outcome
            results.append(outcome)
        return results

    async def _apply(self, changes: Sequence[StateChange]) -> Sequence[ItemResult | Outdated]:
        for _ in range(ATTEMPTS):
            with suppress(UniqueViolationError):  # somebody who takes no lock wrote one of them meanwhile
                return await self._apply_at_once(changes)
        raise Unavailable("Others write the same states; come back later.")

    async def _apply_at_once(self, changes: Sequence[StateChange]) -> Sequence[ItemResult | Outdated]:
        keys = {change.key for change in changes}
        outdated: dict[int, Outdated] = {}
        async with direct(self._engine) as connection, connection.transaction():
            await store.lock_agents(connection, {key[0] for key in keys})
            if sequences := newest_sequences(changes):
                outdated = find_outdated(changes, await store.advance_sequences(connection, sequences))
            current = [change for place, change in enumerate(changes) if place not in outdated] if outdated else changes
            folded = fold(current, await store.find_states(connection, keys))
            if folded.inserted:
                await store.insert_states(connection, folded.inserted)
            if folded.updated:
                await store.update_states(connection, folded.updated)
            if folded.deleted:
                await store.delete_states(connection, folded.deleted)
        if not outdated:
            return folded.results
        results = iter(folded.results)
        return [outdated.get(place) or next(results) for place in range(len(changes))]

    async def _refuse(self, change: StateChange, reason: str) -> ItemResult:
        return change.outcome(reason, 400)

    async def _report(self, agent_id: UUID, changes: Sequence[StateChange]) -> list[ItemResult]:
        read = [(change, read_result(change)) for change in changes]
        refused = [change.outcome(report, 400) for change, report in read if isinstance(report, str)]
        reports = [(change, report) for change, report in read if isinstance(report, OrderResult)]
        outcomes = await self._report_results(agent_id, [report for _, report in reports])
        told = [
            change.outcome(outcome.result, outcome.status)
            for (change, _), outcome in zip(reports, outcomes, strict=True)
        ]
        return refused + told

    async def list(
        self, agent_id: UUID | None, module: str | None, after: StatePlace | None, limit: int
    ) -> Page[State]:
        """Return one page of states, by key."""
        async with self._engine.connect() as connection:
            found, has_more = await store.list_states(connection, agent_id, module, after, limit)
        return make_page(found, encode_cursor, has_more=has_more)
