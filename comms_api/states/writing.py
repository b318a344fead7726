"""Apply batches to the table of states: small ones share transactions, a large one has several."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any, TypeAlias

import msgspec

from comms_api.batches.keys import claim_keys, record_keys
from comms_api.database.coalescing import Coalescer, store_or_halve
from comms_api.database.connection import Connection, Engine
from comms_api.database.failures import Duplicate, MissingPartition
from comms_api.database.partitions import create_partitions
from comms_api.duties.repeating import Duty
from comms_api.errors import CommsError, Outdated, Unavailable
from comms_api.fairness.slices import Slices
from comms_api.protocol import ItemResult
from comms_api.states import store
from comms_api.states.first_results import decode_results, encode_results
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

KEYED_CHANGES = 10
"""A batch with a key counts as at least this many changes, since PostgreSQL has room for few locks."""

Written: TypeAlias = Sequence[ItemResult] | CommsError
"""The results of a batch's changes, in order; or the error to answer, after which none of them has been applied."""

BatchOutcome: TypeAlias = Written | None
"""None if the batch needs several transactions; nothing has been applied."""


class FirstResults(list[ItemResult]):
    """The results of a batch that was applied before, under the same key."""


class AppliedStates(msgspec.Struct):
    """The numbers of batches, and of their changes of states, that this process has applied."""

    batches: int = 0
    changes: int = 0
    repeated_batches: int = 0
    """Batches that were applied already, under the same key; the other numbers do not count them."""


class StateWriter:
    """Writes the changes of batches; each agent has one writer at a time."""

    def __init__(self, engine: Engine, slices: Slices) -> None:
        self._engine = engine
        self._slices = slices
        self._writer = Coalescer[BatchChanges, BatchOutcome](self._apply, _postpone, CHANGES_TOGETHER)
        self._large_writer = Coalescer[BatchChanges, BatchOutcome](self._apply_alone, _postpone, 1)
        """Applies one batch at a time, so that others do not wait for large batches, and these need little memory."""

        self.writers: Mapping[str, Coalescer[Any, Any]] = {"states": self._writer, "large_states": self._large_writer}
        self.applied = AppliedStates()

    def duties(self) -> Sequence[Duty]:
        """Return the writers."""
        return [
            *(self._writer.duty(f"states writer {number}") for number in range(STATE_WRITERS)),
            self._writer.duty("small states writer", SMALL_CHANGES),
            self._large_writer.duty("large states writer"),
        ]

    async def apply(self, batch: BatchChanges) -> Sequence[ItemResult]:
        """Return the result of each change, in order, after the commit.

        Raises `Outdated` when a batch of the agent with a higher number has been applied, and the errors of `Claim`;
        then nothing has changed.
        """
        outcome: BatchOutcome = None
        if _fit([batch], LIMITS.changes):
            size = max(len(batch.changes), 0 if batch.key is None else KEYED_CHANGES)
            [outcome] = await self._writer.submit(batch.agent_id, [batch], size)
        if outcome is None:
            [outcome] = await self._large_writer.submit(batch.agent_id, [batch])
        if isinstance(outcome, CommsError):
            raise outcome
        if isinstance(outcome, FirstResults):
            self.applied.repeated_batches += 1
        else:
            self.applied.batches += 1
            self.applied.changes += len(batch.changes)
        return outcome or ()

    async def _apply(self, batches: Sequence[BatchChanges]) -> Sequence[BatchOutcome]:
        """Apply batches in one transaction or, if they are too large together, each separately."""
        if _fit(batches, CHANGES_TOGETHER) and (outcomes := await self._apply_at_once(batches)) is not None:
            return outcomes
        if len(batches) == 1:
            return [None]
        return [outcome for batch in batches for outcome in await store_or_halve([batch], self._apply, _postpone)]

    async def _apply_alone(self, batches: Sequence[BatchChanges]) -> Sequence[BatchOutcome]:
        """Apply one batch in as many transactions as needed; one more holds its key, if it has one."""
        [batch] = batches
        if batch.key is None:
            return [await self._apply_in_parts(batch)]
        async with self._engine.begin() as connection:
            [claim] = await claim_keys(connection, [batch.key])
            if claim is not None:
                return [await self._repeat(batch, claim)]
            results = await self._apply_in_parts(batch)
            await self._record(connection, [(batch, results)])
        return [results]

    async def _apply_in_parts(self, batch: BatchChanges) -> Sequence[ItemResult]:
        results: list[ItemResult] = []
        apply_part = partial(self._apply_part, batch)
        for start in range(0, len(batch.changes), LIMITS.changes):
            step = batch.changes[start : start + LIMITS.changes]
            async with self._engine.connect() as connection:
                sizes = await store.find_sizes(connection, list({change.key: None for change in step}))
            for part in parts_of(step, sizes, LIMITS):
                results += await store_or_halve(part, apply_part, _refuse)
        return results

    async def _apply_part(self, batch: BatchChanges, changes: Sequence[StateChange]) -> Sequence[ItemResult]:
        """Apply some changes of a batch, in two halves if their states have grown since they were measured."""
        outcomes = await self._apply_at_once([BatchChanges(batch.agent_id, changes, batch.sequence)])
        if outcomes is None:
            middle, apply_part = len(changes) // 2, partial(self._apply_part, batch)
            first = await store_or_halve(changes[:middle], apply_part, _refuse)
            return [*first, *await store_or_halve(changes[middle:], apply_part, _refuse)]
        [outcome] = outcomes
        if isinstance(outcome, CommsError):
            raise outcome
        return outcome

    async def _apply_at_once(self, batches: Sequence[BatchChanges]) -> Sequence[Written] | None:
        """Apply batches in one transaction; if it would read too much, change nothing and return None."""
        for _ in range(ATTEMPTS):
            try:
                return await self._try_to_apply(batches)
            except Duplicate:
                pass  # a writer that takes no lock has inserted one of the states
            except MissingPartition:
                await create_partitions(self._engine)  # a duty creates it ahead of time, unless this host has slept
        raise Unavailable("Others write the same states; try again later.")

    async def _try_to_apply(self, batches: Sequence[BatchChanges]) -> Sequence[Written] | None:
        async with self._engine.begin() as connection:
            claims = await claim_keys(connection, [batch.key for batch in batches])
            new = [batch for batch, claim in zip(batches, claims, strict=True) if claim is None]
            written = await self._write(connection, new) if new else ()
            if written is None:
                return None
            await self._record(connection, zip(new, written, strict=True))
        outcomes = iter(written)
        return [
            next(outcomes) if claim is None else await self._repeat(batch, claim)
            for batch, claim in zip(batches, claims, strict=True)
        ]

    async def _write(self, connection: Connection, batches: Sequence[BatchChanges]) -> Sequence[Written] | None:
        """Write the changes of batches; if that would read too much, change nothing and return None."""
        keys = {change.key: None for batch in batches for change in batch.changes}
        await store.lock_agents(connection, {batch.agent_id for batch in batches})
        existing = await store.find_states(connection, list(keys), LIMITS.read_bytes) if keys else {}
        if existing is None:
            return None
        outdated: dict[int, Outdated] = {}
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

    async def _record(self, connection: Connection, written: Iterable[tuple[BatchChanges, Written]]) -> None:
        """Record the keys of the batches that have been applied, with their results."""
        stored = [
            (batch.key, await self._slices.run(encode_results(batch.agent_id, outcome)))
            for batch, outcome in written
            if batch.key is not None and not isinstance(outcome, CommsError)
        ]
        await record_keys(connection, stored)

    async def _repeat(self, batch: BatchChanges, claim: bytes | CommsError) -> Written:
        """Return the outcome of a batch whose key is not new."""
        if isinstance(claim, CommsError):
            return claim
        return FirstResults(await self._slices.run(decode_results(claim, batch.changes)))


def _fit(batches: Sequence[BatchChanges], changes_maximum: int) -> bool:
    """Return whether batches are small enough for one transaction; the stored states may still be too large."""
    if sum(len(batch.changes) for batch in batches) > changes_maximum:
        return False  # adding up the sizes of very many changes would be one long step
    changes = chain.from_iterable(batch.changes for batch in batches)
    return sum(len(change.data or b"") for change in changes) <= LIMITS.changed_bytes


async def _postpone(_batch: BatchChanges, _reason: str) -> BatchOutcome:
    """Leave a batch that PostgreSQL refuses to the writer that finds the refused changes."""
    return None


async def _refuse(change: StateChange, reason: str) -> ItemResult:
    return change.outcome(reason, 400)
