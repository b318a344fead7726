"""Apply stateful batches, each answered after its commit, and read the states."""

import heapq
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from enum import Enum
from itertools import groupby, islice
from typing import TypeAlias
from uuid import UUID

import msgspec

from comms_api.database.coalescing import Coalescer, store_or_halve
from comms_api.database.connection import Engine
from comms_api.database.failures import Duplicate
from comms_api.database.pages import Page
from comms_api.duties.repeating import Duty
from comms_api.errors import Outdated, Unavailable
from comms_api.fairness.slices import Slices, Steps, release
from comms_api.protocol import COMMAND_MODULE, ItemResult, OrderResult, ReportOutcome
from comms_api.states import store
from comms_api.states.folding import PartLimits, find_outdated, fold, newest_sequences, parts_of
from comms_api.states.model import State, StateChange, StateCursor, StatefulBatch
from comms_api.states.reports import read_result

ATTEMPTS = 5
STATE_WRITERS = 2
SMALL_CHANGES = 200
"""A third writer is reserved for batches of up to this many changes, so that they do not wait for larger ones."""

LIMITS = PartLimits(changes=1_000, changed_bytes=2 * 2**20, read_bytes=2**20)
"""The limits of one transaction for a batch; a batch that needs more is applied in several."""

CHANGES_TOGETHER = 2_500
"""The most changes that batches of several agents have together in one transaction; a commit for each costs more."""

REPORTS_AT_ONCE = 1_000
STEP_ITEMS = 500


class _IsLarge(Enum):
    YES = "large"


IS_LARGE = _IsLarge.YES
"""The outcome of each change of a batch that needs several transactions; no change of it has been applied."""

StateOutcome: TypeAlias = ItemResult | Outdated | _IsLarge
ReportResults: TypeAlias = Callable[[UUID, Sequence[OrderResult]], Awaitable[Sequence[ReportOutcome]]]
"""Receives the results that arrive as states of the module `command`."""


class States:
    """The states of the fleet."""

    def __init__(self, engine: Engine, report_results: ReportResults, slices: Slices) -> None:
        self._engine = engine
        self._report_results = report_results
        self._slices = slices
        self._writer = Coalescer[StateChange, StateOutcome](self._apply, self._refuse, CHANGES_TOGETHER)
        self._large_writer = Coalescer[StateChange, StateOutcome](self._apply_in_parts, self._refuse, 1)
        """Applies one batch at a time, so that others do not wait for large batches, and these need little memory."""

    def duties(self) -> Sequence[Duty]:
        """Return the writers."""
        return [
            *(self._writer.duty(f"states writer {number}") for number in range(STATE_WRITERS)),
            self._writer.duty("small states writer", SMALL_CHANGES),
            self._large_writer.duty("large states writer"),
        ]

    async def change(self, agent_id: UUID, batch: StatefulBatch) -> msgspec.Raw:
        """Apply a batch and return `ItemResults` as JSON, one result per item, in order, after the commit.

        Raises `Outdated`, and changes nothing, when a batch of the agent with a higher number has been applied.
        Otherwise, the lists of the batch are empty afterwards.
        """
        changes, reports = await self._slices.run_metered(_split(batch.changes))
        changed = await self._change(agent_id, changes) if changes else ()
        reported: list[ItemResult] = []
        for start in range(0, len(reports), REPORTS_AT_ONCE):
            reported += await self._report(agent_id, reports[start : start + REPORTS_AT_ONCE])
        results = await self._slices.run_metered(_encode((batch.refused, changed, reported)))
        await self._slices.run_metered(release(batch.changes, changes, reports, batch.refused))
        return results

    async def _change(self, agent_id: UUID, changes: Sequence[StateChange]) -> Sequence[StateOutcome]:
        if _is_small(changes, LIMITS.changes):
            outcomes = await self._writer.submit(agent_id, changes)
            if outcomes[0] is not IS_LARGE:
                return outcomes
        return await self._large_writer.submit(agent_id, changes)

    async def _apply(self, changes: Sequence[StateChange]) -> Sequence[StateOutcome]:
        """Apply the changes in one transaction or, if there are too many, the changes of each agent separately."""
        if _is_small(changes, CHANGES_TOGETHER) and (outcomes := await self._apply_at_once(changes)) is not None:
            return outcomes
        runs = [list(run) for _, run in groupby(changes, key=lambda change: change.key[0])]
        if len(runs) == 1:
            return [IS_LARGE] * len(changes)
        return [outcome for run in runs for outcome in await store_or_halve(run, self._apply, self._refuse)]

    async def _apply_in_parts(self, changes: Sequence[StateChange]) -> Sequence[StateOutcome]:
        """Apply the changes of one agent in as many transactions as needed."""
        outcomes: list[StateOutcome] = []
        for start in range(0, len(changes), LIMITS.changes):
            step = changes[start : start + LIMITS.changes]
            async with self._engine.connect() as connection:
                sizes = await store.find_sizes(connection, list({change.key: None for change in step}))
            for part in parts_of(step, sizes, LIMITS):
                outcomes += await store_or_halve(part, self._apply_part, self._refuse)
        return outcomes

    async def _apply_part(self, changes: Sequence[StateChange]) -> Sequence[StateOutcome]:
        """Apply a part, in two halves if its states have grown since they were measured."""
        outcomes = await self._apply_at_once(changes)
        if outcomes is not None:
            return outcomes
        middle = len(changes) // 2
        first = await store_or_halve(changes[:middle], self._apply_part, self._refuse)
        return [*first, *await store_or_halve(changes[middle:], self._apply_part, self._refuse)]

    async def _apply_at_once(self, changes: Sequence[StateChange]) -> Sequence[StateOutcome] | None:
        """Apply the changes in one transaction; if it would read too much, change nothing and return None."""
        for _ in range(ATTEMPTS):
            with suppress(Duplicate):  # a writer that takes no lock has inserted one of the states
                return await self._try_to_apply(changes)
        raise Unavailable("Others write the same states; try again later.")

    async def _try_to_apply(self, changes: Sequence[StateChange]) -> Sequence[StateOutcome] | None:
        keys = {change.key: None for change in changes}
        outdated: dict[int, Outdated] = {}
        async with self._engine.begin() as connection:
            await store.lock_agents(connection, {key[0] for key in keys})
            existing = await store.find_states(connection, list(keys), LIMITS.read_bytes)
            if existing is None:
                return None
            if sequences := newest_sequences(changes):
                outdated = find_outdated(changes, await store.advance_sequences(connection, sequences))
            current = [change for index, change in enumerate(changes) if index not in outdated] if outdated else changes
            folded = await self._slices.run(fold(current, existing))
            if folded.inserted:
                await store.insert_states(connection, folded.inserted)
            if folded.updated:
                await store.update_states(connection, folded.updated)
            if folded.deleted:
                await store.delete_states(connection, folded.deleted)
        if not outdated:
            return folded.results
        results = iter(folded.results)
        return [outdated.get(index) or next(results) for index in range(len(changes))]

    async def _refuse(self, change: StateChange, reason: str) -> StateOutcome:
        return change.outcome(reason, 400)

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

    async def list(
        self, agent_id: UUID | None, module: str | None, after: StateCursor | None, limit: int
    ) -> Page[State]:
        """Return one page of states, by key."""
        async with self._engine.connect() as connection:
            return await store.list_states(connection, agent_id, module, after, limit)


def _is_small(changes: Sequence[StateChange], maximum: int) -> bool:
    """Return whether the changes are few and small enough for one transaction; stored states may still be too large."""
    return len(changes) <= maximum and sum(len(change.data or b"") for change in changes) <= LIMITS.changed_bytes


def _split(changes: Sequence[StateChange]) -> Steps[tuple[list[StateChange], list[StateChange]]]:
    """Return the changes of states, and the reports of orders."""
    split: tuple[list[StateChange], list[StateChange]] = ([], [])
    for number, change in enumerate(changes, 1):
        split[change.key[1] == COMMAND_MODULE].append(change)
        if number % STEP_ITEMS == 0:
            yield None
    return split


def _encode(outcomes: Iterable[Sequence[StateOutcome]]) -> Steps[msgspec.Raw]:
    """Return `ItemResults` of sequences in the order of items, merged; raises `Outdated` if that is an outcome."""
    merged = heapq.merge(*map(_results, outcomes), key=lambda result: result.index)
    parts: list[bytes] = []
    while results := list(islice(merged, STEP_ITEMS)):
        parts.append(msgspec.json.encode(results)[1:-1])
        yield None
    return msgspec.Raw(b'{"results":[%b]}' % b",".join(parts))


def _results(outcomes: Iterable[StateOutcome]) -> Iterator[ItemResult]:
    for outcome in outcomes:
        if isinstance(outcome, Outdated):
            raise outcome
        if isinstance(outcome, ItemResult):
            yield outcome
