"""Inventories and their differences, the batches that carry them, delays before retries, and identities."""

import base64
import json
import subprocess
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from uuid import UUID

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from comms_api.client.backoff import FIRST_SECONDS, LONGEST_SECONDS, delay_seconds
from comms_api.client.enroll import new_identity
from comms_api.client.inventory.collectors import COLLECTORS
from comms_api.client.inventory.scan import difference, digest
from comms_api.client.spool.batches import within_bytes
from comms_api.client.spool.model import Change, Line
from comms_api.client.transport.bodies import stateful_body, stateless_body
from comms_api.client.transport.claims import UNREADABLE_TOKEN_SECONDS, token_lifetime_seconds

documents = st.dictionaries(st.text("abc", min_size=1, max_size=2), st.binary(max_size=3))


@given(documents, documents)
def test_the_difference_leads_from_the_known_documents_to_the_current_ones(
    known: dict[str, bytes], current: dict[str, bytes]
) -> None:
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
def test_the_inventory_of_this_host_consists_of_json_objects(collector: str) -> None:
    documents = COLLECTORS[collector]()
    assert all(isinstance(json.loads(document), dict) for document in documents.values())


def test_a_process_has_the_same_document_each_time_even_with_invalid_bytes_in_its_arguments() -> None:
    with (
        subprocess.Popen([b"/bin/sleep", b"30"]) as quiet,
        subprocess.Popen([b"sh", b"-c", b"read x; : \xe9"], stdin=subprocess.PIPE) as odd,
    ):
        try:
            first, second = COLLECTORS["processes"](), COLLECTORS["processes"]()
            known = {json.loads(document)["process"]["pid"]: (id_, document) for id_, document in first.items()}
            assert all(second[known[pid][0]] == known[pid][1] for pid in (quiet.pid, odd.pid))
            assert json.loads(known[odd.pid][1])["process"]["command_line"][2] == "read x; : \\xe9"
        finally:
            quiet.kill()
            odd.kill()


def test_a_network_interface_whose_name_is_not_utf_8_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"eth\udce9": [], "lo": []})
    documents = COLLECTORS["networks"]()
    assert {json.loads(document)["interface"]["name"] for document in documents.values()} == {"eth\\xe9", "lo"}


def test_a_batch_has_a_header_line_wherever_the_header_changes() -> None:
    metadata = b'{"agent":{"id":"i"}}'
    lines = [Line(1, "a", "x", b"{}"), Line(2, "a", "x", b'{"b":1}'), Line(3, "b", "y", b"{}")]
    body = stateless_body(metadata, lines).decode().splitlines()
    assert body[1:] == ['{"module":"a","collector":"x"}', "{}", '{"b":1}', '{"module":"b","collector":"y"}', "{}"]
    changes = [Change("fim", "file", "1", "create", b"{}"), Change("fim", "file", "2", "delete", None)]
    body = stateful_body(metadata, changes).decode().splitlines()
    assert [json.loads(text).get("operation") for text in body] == [None, "create", None, "delete"]


def test_a_batch_has_the_items_that_fit_and_at_least_one() -> None:
    assert within_bytes([4, 4, 4], 8) == 2
    assert within_bytes([100, 1], 8) == 1
    assert within_bytes([1, 1], 8) == 2
    assert within_bytes([], 8) == 0


def test_both_forms_of_retry_after_are_respected_up_to_a_limit() -> None:
    assert 600 < delay_seconds(1, "600") < 602
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=300), usegmt=True)
    assert 200 < delay_seconds(1, date) < 302
    assert delay_seconds(1, "9" * 400) < 3602
    for invalid in ("", "soon", "-5", "Thu, 01 Jan 1970 00:00:00 GMT"):
        assert FIRST_SECONDS / 4 <= delay_seconds(1, invalid) <= FIRST_SECONDS


@given(st.integers(1, 10_000), st.one_of(st.none(), st.integers(0, 50)))
def test_a_delay_is_never_zero_and_longer_than_the_retry_after(attempt: int, retry_after: int | None) -> None:
    delay = delay_seconds(attempt, None if retry_after is None else str(retry_after))
    assert FIRST_SECONDS / 4 <= delay <= LONGEST_SECONDS + 1
    assert delay > (retry_after or 0)


def test_the_lifetime_of_a_token_is_measured_by_the_issuers_clock() -> None:
    payload = base64.urlsafe_b64encode(b'{"iat":1000,"exp":1900}').decode().rstrip("=")
    assert token_lifetime_seconds(f"x.{payload}.y") == 900
    for unreadable in ("", "a.b.c", "no", "x.e30.y"):
        assert token_lifetime_seconds(unreadable) == UNREADABLE_TOKEN_SECONDS


def test_an_agent_chooses_a_random_key_and_an_id_of_version_7() -> None:
    first, second = new_identity(), new_identity()
    assert UUID(first.id).version == UUID(second.id).version == 7
    assert len(first.key) == 32
    assert first.key.isalnum()
    assert first.key != second.key
