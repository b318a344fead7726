"""Apply batches to the table of states: small ones share transactions, a large one has several."""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, islice
from typing import TypeAlias

import msgspec

from comms_api.database.coalescing import Coalescer, store_or_halve
from comms_api.database.connection import Engine
from comms_api.database.failures import Duplicate
from comms_api.duties.repeating import Duty
from comms_api.errors import Outdated, Unavailable
from comms_api.fairness.slices import Slices
from comms_api.protocol import ItemResult
from comms_api.states import store
from comms_api.states.folding import PartLimits, find_outdated, fold, newest_sequences, parts_of
from comms_api.states.model import BatchChanges, StateChange

ATTEMPTS = 5
STATE_WRITERS = 2
SMALL_CHANGES = 200
"""A third writer is reserved for batches of up to this many changes, so that they do not wait for larger ones."""

LIMITS = PartLimits(changes=1_000, changed_bytes=2 * 2**20, read_bytes=2**20)
"""The limits of one transaction for a batch; a batch that needs more is applied in several."""

CHANGES_TOGETHER = 2_500
"""The most changes that batches of several agents have together in one transaction; a commit for each costs more."""

BatchOutcome: TypeAlias = Sequence[ItemResult] | Outdated | None
"""The results of a batch's changes, in order; an error; or None if the batch needs several transactions.

After an error and None, no change of the batch has been applied.
"""


class StateWriter:
    """Writes the changes of batches; each agent has one writer at a time."""

    def __init__(self, engine: Engine, slices: Slices) -> None:
        self._engine = engine
        self._slices = slices
        self._writer = Coalescer[BatchChanges, BatchOutcome](self._apply, _postpone, CHANGES_TOGETHER)
        self._large_writer = Coalescer[BatchChanges, BatchOutcome](self._apply_alone, _postpone, 1)
        """Applies one batch at a time, so that others do not wait for large batches, and these need little memory."""

    def duties(self) -> Sequence[Duty]:
        """Return the writers."""
        return [
            *(self._writer.duty(f"states writer {number}") for number in range(STATE_WRITERS)),
            self._writer.duty("small states writer", SMALL_CHANGES),
            self._large_writer.duty("large states writer"),
        ]

    async def apply(self, batch: BatchChanges) -> Sequence[ItemResult]:
        """Return the result of each change, in order, after the commit.

        Raises `Outdated`, and changes nothing, when a batch of the agent with a higher number has been applied.
        """
        outcome: BatchOutcome = None
        if _fit([batch], LIMITS.changes):
            [outcome] = await self._writer.submit(batch.agent_id, [batch], len(batch.changes))
        if outcome is None:
            [outcome] = await self._large_writer.submit(batch.agent_id, [batch])
        if isinstance(outcome, Outdated):
            raise outcome
        return outcome or ()

    async def _apply(self, batches: Sequence[BatchChanges]) -> Sequence[BatchOutcome]:
        """Apply batches in one transaction or, if they are too large together, each separately."""
        if _fit(batches, CHANGES_TOGETHER) and (outcomes := await self._apply_at_once(batches)) is not None:
            return outcomes
        if len(batches) == 1:
            return [None]
        return [outcome for batch in batches for outcome in await store_or_halve([batch], self._apply, _postpone)]

    async def _apply_alone(self, batches: Sequence[BatchChanges]) -> Sequence[BatchOutcome]:
        """Apply one batch in as many transactions as needed."""
        [batch] = batches
        results: list[ItemResult] = []
        apply_part = partial(self._apply_part, batch)
        for start in range(0, len(batch.changes), LIMITS.changes):
            step = batch.changes[start : start + LIMITS.changes]
            async with self._engine.connect() as connection:
                sizes = await store.find_sizes(connection, list({change.key: None for change in step}))
            for part in parts_of(step, sizes, LIMITS):
                results += await store_or_halve(part, apply_part, _refuse)
        return [results]

    async def _apply_part(self, batch: BatchChanges, changes: Sequence[StateChange]) -> Sequence[ItemResult]:
        """Apply some changes of a batch, in two halves if their states have grown since they were measured."""
        outcomes = await self._apply_at_once([msgspec.structs.replace(batch, changes=changes)])
        if outcomes is None:
            middle, apply_part = len(changes) // 2, partial(self._apply_part, batch)
            first = await store_or_halve(changes[:middle], apply_part, _refuse)
            return [*first, *await store_or_halve(changes[middle:], apply_part, _refuse)]
        [outcome] = outcomes
        if isinstance(outcome, Outdated):
            raise outcome
        return outcome

    async def _apply_at_once(self, batches: Sequence[BatchChanges]) -> Sequence[Sequence[ItemResult] | Outdated] | None:
        """Apply batches in one transaction; if it would read too much, change nothing and return None."""
        for _ in range(ATTEMPTS):
            with suppress(Duplicate):  # a writer that takes no lock has inserted one of the states
                return await self._try_to_apply(batches)
        raise Unavailable("Others write the same states; try again later.")

    async def _try_to_apply(self, batches: Sequence[BatchChanges]) -> Sequence[Sequence[ItemResult] | Outdated] | None:
        keys = {change.key: None for batch in batches for change in batch.changes}
        outdated: dict[int, Outdated] = {}
        async with self._engine.begin() as connection:
            await store.lock_agents(connection, {batch.agent_id for batch in batches})
            existing = await store.find_states(connection, list(keys), LIMITS.read_bytes)
            if existing is None:
                return None
            if sequences := newest_sequences(batches):
                outdated = find_outdated(batches, await store.advance_sequences(connection, sequences))
            current = [batch.changes for index, batch in enumerate(batches) if index not in outdated]
            folded = await self._slices.run(fold(chain.from_iterable(current), existing))
            if folded.inserted:
                await store.insert_states(connection, folded.inserted)
            if folded.updated:
                await store.update_states(connection, folded.updated)
            if folded.deleted:
                await store.delete_states(connection, folded.deleted)
        results = iter(folded.results)
        return [outdated.get(index) or list(islice(results, len(batch.changes))) for index, batch in enumerate(batches)]


def _fit(batches: Sequence[BatchChanges], changes_maximum: int) -> bool:
    """Return whether batches are small enough for one transaction; the stored states may still be too large."""
    changes = [change for batch in batches for change in batch.changes]
    size = sum(len(change.data or b"") for change in changes)
    return len(changes) <= changes_maximum and size <= LIMITS.changed_bytes


async def _postpone(_batch: BatchChanges, _reason: str) -> BatchOutcome:
    """Leave a batch that PostgreSQL refuses to the writer that finds the refused changes."""
    return None


async def _refuse(change: StateChange, reason: str) -> ItemResult:
    return change.outcome(reason, 400)
