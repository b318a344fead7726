"""What a sequence of changes makes of states: pure, so that it can be proven against applying them one by one."""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import msgspec

from comms_api.errors import Outdated
from comms_api.events.documents import Document
from comms_api.events.model import STATE_BYTES_MAXIMUM, StateChange, StateKey
from comms_api.protocol import ItemResult

_Current: TypeAlias = dict[StateKey, bytes | Document]
"""A state is opened when it is first merged into."""


class Folded(msgspec.Struct, frozen=True):
    """The result of each change, in order, and what must become of the table; a key appears once."""

    results: list[ItemResult]
    inserted: dict[StateKey, bytes]
    updated: dict[StateKey, bytes]
    deleted: set[StateKey]


def newest_sequences(changes: Iterable[StateChange]) -> dict[str, int]:
    """Return the highest number among the batches of each agent that counts them."""
    newest: dict[str, int] = {}
    for change in changes:
        if change.sequence is not None:
            newest[change.key[0]] = max(change.sequence, newest.get(change.key[0], 0))
    return newest


def find_outdated(changes: Iterable[StateChange], applied: Mapping[str, int]) -> dict[int, Outdated]:
    """Return the places of the changes whose batch is older than one that was applied before them, each with why.

    An equal number is the same batch, sent again.
    """
    latest = dict(applied)
    outdated: dict[int, Outdated] = {}
    for place, change in enumerate(changes):
        if change.sequence is None:
            continue
        newest = latest.get(change.key[0], 0)
        if change.sequence < newest:
            outdated[place] = Outdated(newest)
        else:
            latest[change.key[0]] = change.sequence
    return outdated


def fold(changes: Iterable[StateChange], existing: Mapping[StateKey, bytes]) -> Folded:
    """Apply `changes` in order to `existing`, as if each had been a statement of its own."""
    current: _Current = dict(existing)
    results = [_apply(change, current) for change in changes]
    written = {key: bytes(state) for key, state in current.items()}
    inserted = {key: data for key, data in written.items() if key not in existing}
    updated = {key: written[key] for key, data in existing.items() if written.get(key, data) != data}
    return Folded(results, inserted, updated, existing.keys() - written.keys())


def _apply(change: StateChange, current: _Current) -> ItemResult:
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
    merge = state.merge(change.data)
    if merge.growth > 0 and state.size + merge.growth > STATE_BYTES_MAXIMUM:
        return change.outcome(f"data: the state would be larger than {STATE_BYTES_MAXIMUM} bytes", 400)
    merge.apply()
    return change.outcome("updated" if merge.changes else "noop", 200)


def _delete(change: StateChange, current: _Current) -> ItemResult:
    if current.pop(change.key, None) is None:
        return change.outcome("not found", 404)
    return change.outcome("deleted", 200)
