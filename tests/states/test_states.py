"""Folding many changes into one write is the same as applying them one by one."""

import json
import time
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from comms_api.fairness.slices import exhaust
from comms_api.states.documents import MERGE_DEPTH_MAXIMUM, Document
from comms_api.states.folding import PartLimits, fold, parts_of
from comms_api.states.model import STATE_BYTES_MAXIMUM, StateChange, StateKey

AGENTS = [str(UUID(int=number)) for number in (1, 2)]
values = st.recursive(st.integers(0, 2) | st.none(), lambda inner: st.dictionaries(st.sampled_from("xyz"), inner))
objects = st.dictionaries(st.sampled_from("abc"), values)
keys = st.tuples(st.sampled_from(AGENTS), st.just("fim"), st.just(""), st.sampled_from("pq"))


def merged(document: dict[str, Any], partial: dict[str, Any]) -> dict[str, Any]:
    """Merge by RFC 7396 without its deletions, in the most obvious way."""
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
def test_folding_a_batch_equals_applying_its_changes_one_by_one(
    before: dict[StateKey, Any], batch: list[StateChange]
) -> None:
    states = dict(before)
    statuses = [apply_one(change, states) for change in batch]
    folded = exhaust(fold(batch, {key: encoded(data) for key, data in before.items()}))
    assert [result.status for result in folded.results] == statuses
    after = {key: data for key, data in before.items() if key not in folded.deleted}
    written = folded.inserted | folded.updated
    assert after | {key: json.loads(data) for key, data in written.items()} == states
    assert not written.keys() & folded.deleted
    assert not folded.inserted.keys() & before.keys()
    assert folded.updated.keys() <= before.keys()


def merge(document: bytes, partial: bytes) -> bytes:
    into = Document(document)
    exhaust(into.merge(partial, None)).apply()
    return bytes(into)


@given(objects, st.lists(objects))
def test_many_merges_into_one_document_equal_writing_it_after_each_merge(
    document: dict[str, Any], partials: list[dict[str, Any]]
) -> None:
    into, written = Document(encoded(document)), encoded(document)
    for partial in partials:
        change = exhaust(into.merge(encoded(partial), None))
        size = into.size
        after = merge(written, encoded(partial))
        assert change.changes == (after != written)
        change.apply()
        written = after
        assert into.size == size + change.growth
        assert json.loads(bytes(into)) == json.loads(written)


@given(objects, objects)
def test_a_second_merge_of_the_same_document_changes_nothing(document: dict[str, Any], partial: dict[str, Any]) -> None:
    once = merge(encoded(document), encoded(partial))
    assert json.loads(once) == merged(document, partial)
    assert merge(once, encoded(partial)) is once


def test_values_are_moved_byte_for_byte() -> None:
    document = b'{"big":1e400,"text":"\\u0000","number":1.0,"kept":{"a": 1}}'
    assert merge(document, b'{"new":12345678901234567890.0}') == (
        b'{"big":1e400,"text":"\\u0000","number":1.0,"kept":{"a": 1},"new":12345678901234567890.0}'
    )


def test_objects_deeper_than_the_bound_are_replaced_as_a_whole() -> None:
    def nested(leaf: str) -> bytes:
        depth = MERGE_DEPTH_MAXIMUM + 1
        return b'{"a":' * depth + leaf.encode() + b"}" * depth

    assert merge(nested('{"x":1}'), nested('{"y":2}')) == nested('{"y":2}')


def test_objects_that_are_nested_too_deeply_to_be_read_are_replaced_as_a_whole() -> None:
    deep = b'{"x":' * 100_000 + b"1" + b"}" * 100_000
    assert merge(deep, b'{"y":2}') == b'{"y":2}'
    assert merge(b'{"y":2}', deep) == deep


def test_a_large_document_is_read_once_however_many_documents_are_merged_into_it() -> None:
    key = (AGENTS[0], "fim", "", "large")
    large = encoded({f"member{number}": number for number in range(40_000)})
    once, often = ([StateChange(index, key, "update", b'{"a":%d}' % index) for index in range(n)] for n in (5, 500))
    started = time.process_time()
    exhaust(fold(once, {key: large}))
    seconds = time.process_time() - started
    folded = exhaust(fold(often, {key: large}))
    assert time.process_time() - started < 10 * seconds
    assert json.loads(folded.updated[key])["a"] == len(often) - 1


def test_a_state_does_not_grow_beyond_its_bound() -> None:
    key = (AGENTS[0], "fim", "", "growing")
    parts = [encoded({f"part{number}": "x" * 300_000}) for number in range(4)]
    later = [b'{"part0":"smaller"}', b'{"part3":"now it fits"}']
    changes = [StateChange(index, key, "update", data) for index, data in enumerate([*parts, *later])]
    folded = exhaust(fold(changes, {}))
    assert [result.status for result in folded.results] == [201, 200, 200, 400, 200, 200]
    assert folded.results[3].result == f"data: the state would be larger than {STATE_BYTES_MAXIMUM} bytes"
    kept = json.loads(folded.inserted[key])
    assert {name: len(value) for name, value in kept.items()} == {
        "part0": 7, "part1": 300_000, "part2": 300_000, "part3": 11
    }  # fmt: skip


@given(st.dictionaries(keys, objects), changes(), st.integers(1, 5), st.integers(1, 30), st.integers(1, 30))
def test_applying_a_batch_in_parts_equals_applying_its_changes_one_by_one(
    before: dict[StateKey, Any], batch: list[StateChange], count: int, changed_bytes: int, read_bytes: int
) -> None:
    states, stored = dict(before), {key: encoded(data) for key, data in before.items()}
    statuses = [apply_one(change, states) for change in batch]
    sizes = {key: len(data) for key, data in stored.items()}
    results = []
    for part in parts_of(batch, sizes, PartLimits(count, changed_bytes, read_bytes)):
        touched = {change.key for change in part}
        existing = {key: data for key, data in stored.items() if key in touched}
        read = sum(map(len, existing.values()))
        assert len(part) <= count
        assert len(part) == 1 or read <= read_bytes or len(part) == 0
        folded = exhaust(fold(part, existing))
        results += folded.results
        stored |= folded.inserted | folded.updated
        stored = {key: data for key, data in stored.items() if key not in folded.deleted}
    assert [result.status for result in results] == statuses
    assert {key: json.loads(data) for key, data in stored.items()} == states
