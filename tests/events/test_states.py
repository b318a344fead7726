"""Folding many changes into one write is the same as applying them one by one."""

import json
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from comms_api.events.model import StateChange, StateKey
from comms_api.events.states import MERGE_DEPTH_MAXIMUM, fold, merge

AGENTS = [str(UUID(int=number)) for number in (1, 2)]
values = st.recursive(st.integers(0, 2) | st.none(), lambda inner: st.dictionaries(st.sampled_from("xyz"), inner))
objects = st.dictionaries(st.sampled_from("abc"), values)
keys = st.tuples(st.sampled_from(AGENTS), st.just("fim"), st.just(""), st.sampled_from("pq"))


def merged(document: dict[str, Any], partial: dict[str, Any]) -> dict[str, Any]:
    """RFC 7396 without its deletions: what a person would write."""
    return document | {
        name: merged(document[name], value)
        if isinstance(value, dict) and isinstance(document.get(name), dict)
        else value
        for name, value in partial.items()
    }


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


@st.composite
def changes(draw: st.DrawFn) -> list[StateChange]:
    drawn = draw(st.lists(st.tuples(keys, st.sampled_from(["create", "update", "delete"]), objects), max_size=12))
    return [
        StateChange(index, key, operation, None if operation == "delete" else encoded(data))  # type: ignore[arg-type]
        for index, (key, operation, data) in enumerate(drawn)
    ]


def apply_one(change: StateChange, states: dict[StateKey, Any]) -> int:
    exists, data = change.key in states, json.loads(change.data or b"{}")
    if change.operation == "delete":
        return 200 if states.pop(change.key, None) is not None else 404
    if change.operation == "create" and exists:
        return 409
    states[change.key] = merged(states.get(change.key, {}), data) if exists else data
    return 200 if exists else 201


@given(st.dictionaries(keys, objects), changes())
def test_a_folded_batch_is_the_batch_applied_one_by_one(before: dict[StateKey, Any], batch: list[StateChange]) -> None:
    states = dict(before)
    statuses = [apply_one(change, states) for change in batch]
    folded = fold(batch, {key: encoded(data) for key, data in before.items()})
    assert [result.status for result in folded.results] == statuses
    after = {key: data for key, data in before.items() if key not in folded.deleted}
    written = folded.inserted | folded.updated
    assert after | {key: json.loads(data) for key, data in written.items()} == states
    assert not written.keys() & folded.deleted
    assert not folded.inserted.keys() & before.keys()
    assert folded.updated.keys() <= before.keys()


@given(objects, objects)
def test_merging_twice_changes_nothing_more(document: dict[str, Any], partial: dict[str, Any]) -> None:
    once = merge(encoded(document), encoded(partial))
    assert json.loads(once) == merged(document, partial)
    assert merge(once, encoded(partial)) is once


def test_values_are_moved_byte_for_byte() -> None:
    document = b'{"big":1e400,"text":"\\u0000","number":1.0,"kept":{"a": 1}}'
    assert merge(document, b'{"new":12345678901234567890.0}') == (
        b'{"big":1e400,"text":"\\u0000","number":1.0,"kept":{"a": 1},"new":12345678901234567890.0}'
    )


def test_objects_deeper_than_the_bound_are_replaced_whole() -> None:
    def nested(leaf: str) -> bytes:
        depth = MERGE_DEPTH_MAXIMUM + 1
        return b'{"a":' * depth + leaf.encode() + b"}" * depth

    assert merge(nested('{"x":1}'), nested('{"y":2}')) == nested('{"y":2}')
