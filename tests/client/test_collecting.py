"""Collecting: log files that move, inventories that change, and the batches that tell of them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comms_api.client.backoff import FIRST_SECONDS, LONGEST_SECONDS, delay_seconds
from comms_api.client.batches import stateful_body, stateless_body, within_bytes
from comms_api.client.enroll import new_identity
from comms_api.client.follow import LINE_BYTES_MAXIMUM, Follower
from comms_api.client.inventory import COLLECTORS, collect_packages, difference, digest
from comms_api.client.model import Change, Line
from comms_api.client.session import token_expiry
from comms_api.client.spool import Spool
from comms_api.errors import Unauthenticated
from comms_api.protocol import AgentMetadata


class Log:
    """A log file that is followed."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "app.log"
        self.path.touch()
        self.spool = Spool(folder / "spool.sqlite", 2**30)
        self.follower = Follower((str(folder / "*.log"),), self.spool, from_start=True)

    def write(self, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data)

    def collected(self) -> list[str]:
        self.follower.collect()
        lines = self.spool.next_lines(10_000)
        self.spool.settle_lines(lines, sent=True)
        return [json.loads(line.event)["event"]["original"] for line in lines]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    made = Log(tmp_path)
    yield made
    made.follower.close()
    made.spool.close()


def test_a_line_is_sent_when_it_is_whole(log: Log) -> None:
    log.write(b"one\ntw")
    assert log.collected() == ["one"]
    log.write(b"o\r\n\nthree\n")
    assert log.collected() == ["two", "three"]
    assert log.collected() == []


def test_rotation_loses_nothing_of_either_file(log: Log) -> None:
    log.write(b"before\n")
    assert log.collected() == ["before"]
    log.write(b"last of the old\n")
    log.path.rename(log.path.with_suffix(".1"))
    log.write(b"first of the new\n")
    assert log.collected() == ["last of the old", "first of the new"]


def test_a_truncated_file_is_read_from_its_start(log: Log) -> None:
    log.write(b"a long line that was here\n")
    log.collected()
    log.path.write_bytes(b"short\n")
    assert log.collected() == ["short"]


def test_bytes_that_are_no_text_and_lines_without_end_are_kept_within_bounds(log: Log) -> None:
    log.write(b"caf\xe9 \x00\n" + b"x" * 3 * 2**20 + b"\nafter\n")
    first, *middle, last = log.collected()
    assert (first, last) == ("caf\\xe9 \x00", "after")
    assert all(len(text) <= LINE_BYTES_MAXIMUM + 20 for text in middle)


def test_a_new_file_may_be_read_from_its_end(tmp_path: Path) -> None:
    (tmp_path / "x.log").write_bytes(b"old\n")
    spool = Spool(tmp_path / "spool.sqlite", 2**20)
    follower = Follower((str(tmp_path / "*.log"),), spool, from_start=False)
    follower.collect()
    with (tmp_path / "x.log").open("ab") as file:
        file.write(b"new\n")
    follower.collect()
    lines = [json.loads(line.event)["event"]["original"] for line in spool.next_lines(10)]
    follower.close()
    spool.close()
    assert lines == ["new"]


documents = st.dictionaries(st.text("abc", min_size=1, max_size=2), st.binary(max_size=3))


@given(documents, documents)
def test_the_difference_leads_from_the_known_to_the_current(known: dict[str, bytes], current: dict[str, bytes]) -> None:
    states = dict(known)
    hashes = {id_: digest(document) for id_, document in known.items()}
    for change, new in difference("packages", hashes, current):
        assert (change.operation == "create") == (change.id not in known)
        if change.data is None:
            del states[change.id]
            assert new == b""
        else:
            assert states.get(change.id) != change.data
            states[change.id] = change.data
            assert new == digest(change.data)
    assert states == current


@pytest.mark.parametrize("collector", COLLECTORS)
def test_this_hosts_inventory_is_json_objects(collector: str) -> None:
    documents = COLLECTORS[collector]()
    assert all(isinstance(json.loads(document), dict) for document in documents.values())


def test_only_installed_packages_are_listed(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text(
        "Package: a\nStatus: install ok installed\nVersion: 1: 2\nArchitecture: all\nDescription: x\n Package: no\n\n"
        "Package: b\nStatus: deinstall ok config-files\nVersion: 3\n"
    )
    [document] = collect_packages(status).values()
    assert json.loads(document) == {"package": {"name": "a", "version": "1: 2", "architecture": "all"}}
    assert collect_packages(tmp_path / "absent") == {}


def test_batches_are_lines_with_a_header_where_it_changes() -> None:
    metadata = AgentMetadata(id="i", name="n")
    lines = [Line(1, "a", "x", b"{}"), Line(2, "a", "x", b'{"b":1}'), Line(3, "b", "y", b"{}")]
    body = stateless_body(metadata, lines).decode().splitlines()
    assert body[1:] == ['{"module":"a","collector":"x"}', "{}", '{"b":1}', '{"module":"b","collector":"y"}', "{}"]
    changes = [Change("fim", "file", "1", "create", b"{}"), Change("fim", "file", "2", "delete", None)]
    body = stateful_body(metadata, changes).decode().splitlines()
    assert [json.loads(text).get("operation") for text in body] == [None, "create", None, "delete"]


def test_a_batch_takes_what_fits_and_at_least_one() -> None:
    assert within_bytes([4, 4, 4], 8) == 2
    assert within_bytes([100, 1], 8) == 1
    assert within_bytes([1, 1], 8) == 2
    assert within_bytes([], 8) == 0


@given(st.integers(1, 10_000), st.one_of(st.none(), st.integers(0, 50)))
def test_waiting_is_never_nothing_and_at_least_what_the_server_says(attempt: int, retry_after: int | None) -> None:
    delay = delay_seconds(attempt, None if retry_after is None else str(retry_after))
    assert FIRST_SECONDS / 4 <= delay <= LONGEST_SECONDS + 1
    assert delay > (retry_after or 0)


def test_a_token_that_cannot_be_read_is_an_error() -> None:
    assert token_expiry("x.eyJleHAiOiA1fQ.y") == 5
    for token in ("", "a.b.c", "no", "x.e30.y"):
        with pytest.raises(Unauthenticated):
            token_expiry(token)


def test_an_agent_chooses_a_random_key_and_an_id_of_version_7() -> None:
    first, second = new_identity(), new_identity()
    assert first.id.version == second.id.version == 7
    assert len(first.key) == 32
    assert first.key.isalnum()
    assert first.key != second.key
