"""Apply stateful batches, each answered after its commit, and read the states."""

import heapq
from collections.abc import Awaitable, Callable, Iterable, Sequence
from io import BytesIO
from itertools import islice
from typing import TypeAlias
from uuid import UUID

import msgspec

from comms_api.batches.keys import BatchKey
from comms_api.database.connection import Engine
from comms_api.database.pages import Page
from comms_api.duties.repeating import Duty
from comms_api.fairness.slices import Slices, Steps, release
from comms_api.protocol import COMMAND_MODULE, ItemResult, OrderResult, ReportOutcome
from comms_api.states import store
from comms_api.states.model import BatchChanges, State, StateChange, StateCursor, StateFilter, StatefulBatch
from comms_api.states.reports import read_result
from comms_api.states.writing import StateWriter

REPORTS_AT_ONCE = 1_000
STEP_ITEMS = 500

ReportResults: TypeAlias = Callable[[UUID, Sequence[OrderResult]], Awaitable[Sequence[ReportOutcome]]]
"""Receives the results that arrive as states of the module `command`."""


class States:
    """The states of the fleet."""

    def __init__(self, engine: Engine, report_results: ReportResults, slices: Slices) -> None:
        self._engine = engine
        self._report_results = report_results
        self._slices = slices
        self._writer = StateWriter(engine, slices)
        self.writers, self.applied = self._writer.writers, self._writer.applied

    def duties(self) -> Sequence[Duty]:
        """Return the writers."""
        return self._writer.duties()

    async def change(
        self, agent_id: UUID, batch: StatefulBatch, sequence: int | None = None, key: BatchKey | None = None
    ) -> msgspec.Raw:
        """Apply a batch and return `ItemResults` as JSON, one result per item, in order, after the commit.

        The results of a key that the agent has used for the same body are the first ones; only reports are made again.

        Raises `Outdated`, and the errors of a `Claim`; then nothing has changed.
        The lists of the batch are empty afterwards.
        """
        changes, reports = await self._slices.run_metered(_split(batch.changes))
        try:
            return await self._change(agent_id, batch, BatchChanges(str(agent_id), changes, sequence, key), reports)
        finally:
            await self._slices.run_metered(release(batch.changes, changes, reports, batch.refused))

    async def _change(
        self, agent_id: UUID, batch: StatefulBatch, changes: BatchChanges, reports: Sequence[StateChange]
    ) -> msgspec.Raw:
        changed: Sequence[ItemResult] = ()
        if changes.changes or changes.key is not None:
            changed = await self._writer.apply(changes)
        reported: list[ItemResult] = []
        for start in range(0, len(reports), REPORTS_AT_ONCE):
            reported += await self._report(agent_id, reports[start : start + REPORTS_AT_ONCE])
        return await self._slices.run_metered(_encode((batch.refused, changed, reported)))

    async def _report(self, agent_id: UUID, changes: Sequence[StateChange]) -> list[ItemResult]:
        read = [(change, read_result(change)) for change in changes]
        refused = [change.outcome(report, 400) for change, report in read if isinstance(report, str)]
        reports = [(change, report) for change, report in read if isinstance(report, OrderResult)]
        outcomes = await self._report_results(agent_id, [report for _, report in reports])
        answers = [
            change.outcome(outcome.result, outcome.status)
            for (change, _), outcome in zip(reports, outcomes, strict=True)
        ]
        return refused + answers

    async def list(self, state_filter: StateFilter, after: StateCursor | None, limit: int) -> Page[State]:
        """Return one page of states, by key; with a text to search for, it may be short and not the last."""
        async with self._engine.connect() as connection:
            return await store.list_states(connection, state_filter, after, limit)


def _split(changes: Sequence[StateChange]) -> Steps[tuple[list[StateChange], list[StateChange]]]:
    """Return the changes of states, and the reports of orders."""
    split: tuple[list[StateChange], list[StateChange]] = ([], [])
    for number, change in enumerate(changes, 1):
        split[change.key[1] == COMMAND_MODULE].append(change)
        if number % STEP_ITEMS == 0:
            yield None
    return split


def _encode(results: Iterable[Sequence[ItemResult]]) -> Steps[msgspec.Raw]:
    """Return `ItemResults` of sequences in the order of items, merged."""
    merged = heapq.merge(*results, key=lambda result: result.index)
    encoded, separator = BytesIO(), b""
    encoded.write(b'{"results":[')
    while step := list(islice(merged, STEP_ITEMS)):
        encoded.write(separator + msgspec.json.encode(step)[1:-1])
        separator = b","
        yield None
    encoded.write(b"]}")
    return msgspec.Raw(encoded.getvalue())
