"""Compute the effect of a sequence of changes on states. Tests compare it with applying the changes one by one."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

import msgspec

from comms_api.errors import Outdated
from comms_api.fairness.slices import Steps
from comms_api.protocol import ItemResult
from comms_api.states.documents import STEP_BYTES, Document
from comms_api.states.model import STATE_BYTES_MAXIMUM, BatchChanges, StateChange, StateKey

STEP_CHANGES = 64

_Current: TypeAlias = dict[StateKey, bytes | Document]
"""A state is opened when it is first merged into."""


class Folded(msgspec.Struct, frozen=True):
    """The result of each change, in order, and the writes to the table, at most one for each key."""

    results: list[ItemResult]
    inserted: dict[StateKey, bytes]
    updated: dict[StateKey, bytes]
    deleted: set[StateKey]


class PartLimits(msgspec.Struct, frozen=True):
    """The limits of one transaction."""

    changes: int
    changed_bytes: int
    """The size of the documents that the agent sent."""

    read_bytes: int
    """The size of the documents in the database into which these are merged."""


def newest_sequences(batches: Iterable[BatchChanges]) -> dict[str, int]:
    """Return the highest batch number of each agent that numbers its batches."""
    newest: dict[str, int] = {}
    for batch in batches:
        if batch.sequence is not None:
            newest[batch.agent_id] = max(batch.sequence, newest.get(batch.agent_id, 0))
    return newest


def find_outdated(batches: Iterable[BatchChanges], applied: Mapping[str, int]) -> dict[int, Outdated]:
    """Return, by index, the batches that are older than one that was applied before them, each with its error.

    An equal number is the same batch, sent again.
    """
    latest = dict(applied)
    outdated: dict[int, Outdated] = {}
    for index, batch in enumerate(batches):
        if batch.sequence is None:
            continue
        newest = latest.get(batch.agent_id, 0)
        if batch.sequence < newest:
            outdated[index] = Outdated(newest)
        else:
            latest[batch.agent_id] = batch.sequence
    return outdated


def parts_of(
    changes: Iterable[StateChange], sizes: dict[StateKey, int], limits: PartLimits
) -> Iterator[list[StateChange]]:
    """Cut changes into consecutive parts within the limits, of one change at least.

    `sizes` starts with the sizes of the documents in the database, and is updated with their maximum sizes after
    each change.
    """
    part: list[StateChange] = []
    keys: set[StateKey] = set()
    read = changed = 0
    for change in changes:
        size, added = sizes.get(change.key, 0), len(change.data or b"")
        read += 0 if change.key in keys else size
        changed += added
        if part and (read > limits.read_bytes or changed > limits.changed_bytes or len(part) == limits.changes):
            yield part
            part, keys, read, changed = [], set(), size, added
        part.append(change)
        keys.add(change.key)
        sizes[change.key] = min(size + added, STATE_BYTES_MAXIMUM)
    yield part


def fold(changes: Iterable[StateChange], existing: Mapping[StateKey, bytes]) -> Steps[Folded]:
    """Apply `changes` in order to `existing`, as if each were a separate statement."""
    current: _Current = dict(existing)
    results: list[ItemResult] = []
    for change in changes:
        results.append((yield from _apply(change, current)))
        if len(results) % STEP_CHANGES == 0:
            yield change.key[0]
    written = yield from _write(current)
    inserted = {key: data for key, data in written.items() if key not in existing}
    updated = {key: written[key] for key, data in existing.items() if written.get(key, data) != data}
    return Folded(results, inserted, updated, existing.keys() - written.keys())


def _apply(change: StateChange, current: _Current) -> Steps[ItemResult]:
    if change.data is None:
        return _delete(change, current)
    state = current.get(change.key)
    if state is None:
        current[change.key] = change.data
        return change.outcome("created", 201)
    if change.operation == "create":
        return change.outcome("exists already", 409)
    if isinstance(state, bytes):
        state = current[change.key] = Document(state)
    merge = yield from state.merge(change.data, change.key[0])
    if merge.growth > 0 and state.size + merge.growth > STATE_BYTES_MAXIMUM:
        return change.outcome(f"data: the state would be larger than {STATE_BYTES_MAXIMUM} bytes", 400)
    merge.apply()
    return change.outcome("updated" if merge.changes else "noop", 200)


def _write(current: _Current) -> Steps[dict[StateKey, bytes]]:
    """Return the documents in their current form."""
    written: dict[StateKey, bytes] = {}
    for key, state in current.items():
        written[key] = bytes(state)
        if isinstance(state, Document) and (state.size > STEP_BYTES or len(written) % STEP_CHANGES == 0):
            yield key[0]
    return written


def _delete(change: StateChange, current: _Current) -> ItemResult:
    if current.pop(change.key, None) is None:
        return change.outcome("not found", 404)
    return change.outcome("deleted", 200)
