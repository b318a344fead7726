"""What a sequence of changes makes of states: pure, so that it can be proven against applying them one by one."""

from collections.abc import Iterable, Mapping

import msgspec

from comms_api.events.model import StateChange, StateKey
from comms_api.protocol import ItemResult

MERGE_DEPTH_MAXIMUM = 32
"""Deeper objects are replaced whole: each level reads its part of the document once more."""

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Folded(msgspec.Struct, frozen=True):
    """The result of each change, in order, and what must become of the table; a key appears once."""

    results: list[ItemResult]
    inserted: dict[StateKey, bytes]
    updated: dict[StateKey, bytes]
    deleted: set[StateKey]


def fold(changes: Iterable[StateChange], existing: Mapping[StateKey, bytes]) -> Folded:
    """Apply `changes` in order to `existing`, as if each had been a statement of its own."""
    current = dict(existing)
    results = [_apply(change, current) for change in changes]
    inserted = {key: data for key, data in current.items() if key not in existing}
    updated = {key: current[key] for key, data in existing.items() if current.get(key, data) != data}
    return Folded(results, inserted, updated, existing.keys() - current.keys())


def _apply(change: StateChange, current: dict[StateKey, bytes]) -> ItemResult:
    before = current.get(change.key)
    if change.data is None:
        return _delete(change, current)
    if before is None:
        current[change.key] = change.data
        return change.outcome("created", 201)
    if change.operation == "create":
        return change.outcome("exists already", 409)
    merged = merge(before, change.data)
    current[change.key] = merged
    return change.outcome("noop" if merged == before else "updated", 200)


def _delete(change: StateChange, current: dict[StateKey, bytes]) -> ItemResult:
    if current.pop(change.key, None) is None:
        return change.outcome("not found", 404)
    return change.outcome("deleted", 200)


def merge(document: bytes, partial: bytes, depth: int = MERGE_DEPTH_MAXIMUM) -> bytes:
    """Return `document` with the members of `partial` set, objects member by member; both are JSON objects.

    Values are moved as bytes, so that numbers and escapes stay as they were written; what changes nothing returns
    `document` itself, and what sets everything `partial` itself.
    """
    members, new = _OBJECT.decode(document), _OBJECT.decode(partial)
    changed = {}
    is_partial = members.keys() <= new.keys()  # it may be what the document becomes
    for name, value in new.items():
        old = members.get(name)
        if old == value:
            continue
        merged = value if old is None else _merge_member(old, value, depth)
        is_partial = is_partial and merged is value
        if merged != old:
            changed[name] = merged
    if not changed:
        return document
    return partial if is_partial else msgspec.json.encode(members | changed)


def _merge_member(old: msgspec.Raw, new: msgspec.Raw, depth: int) -> msgspec.Raw:
    before, after = bytes(old), bytes(new)
    if depth == 1 or not (before.startswith(b"{") and after.startswith(b"{")):
        return new
    merged = merge(before, after, depth - 1)
    return new if merged is after else msgspec.Raw(merged)
