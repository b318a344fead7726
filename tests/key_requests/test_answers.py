"""An answer has exactly one of two forms; no part of any other answer is passed on."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sources import ASKED, KEY, agent, agent_json, refusal_json

from comms_api.key_requests.answers import BadAnswer, parse_answer
from comms_api.key_requests.model import ExternalAgent, Question, Refusal

MAXIMUM = 4096
OTHER_UUID = "01920a5e-7a3c-7cc1-8f4e-1d2b3c4d5e6f"
UUID_OF_VERSION_4 = "1b2c3d4e-7a3c-4cc1-af4e-1d2b3c4d5e6f"
UUID_OF_VERSION_5 = "1b2c3d4e-7a3c-5cc1-af4e-1d2b3c4d5e6f"

FIELDS = st.sampled_from(["error", "data", "message", "id", "name", "ip", "key"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text() | st.sampled_from(["001", "any", KEY]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | FIELDS, inner, max_size=5),
    max_leaves=12,
)
ERRORS = st.just(0) | VALUES


def parse(answer: bytes, question: Question = ASKED) -> ExternalAgent | Refusal:
    return parse_answer(answer, question, MAXIMUM)


def parsed_or_not(answer: bytes) -> ExternalAgent | Refusal | BadAnswer:
    try:
        return parse(answer)
    except BadAnswer as refused:
        return refused


def test_an_agent_is_read() -> None:
    assert parse(b" \n" + agent_json(ip="10.1.2.3/8") + b"\r\n") == ExternalAgent("001", "web-1", "10.0.0.0/8", KEY)


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, -1, 2**31 - 1])
def test_a_refusal_is_read_with_its_code(code: int) -> None:
    assert parse(refusal_json(code, "no\nsuch agent")) == Refusal(code, "no such agent")


def test_a_long_message_of_a_refusal_is_cut() -> None:
    answer = parse(refusal_json(message="x" * 2000))
    assert isinstance(answer, Refusal)
    assert answer.message == "x" * 512 + "…"


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "a"},
        {"name": "A" * 128},
        {"name": "Web_1.example-2"},
        {"ip": "2001:db8::/32"},
        {"key": "k"},
        {"key": "k" * 128},
        {"key": "".join(map(chr, range(32, 127)))},
    ],
)
def test_each_field_may_be_as_long_as_its_bound(changes: dict[str, str]) -> None:
    assert isinstance(parse(agent_json(**changes)), ExternalAgent)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "01"},
        {"id": "123456789"},
        {"id": "001\n"},
        {"id": "00a"},
        {"id": 1},
        {"id": None},
        {"id": OTHER_UUID[:-1]},
        {"id": UUID_OF_VERSION_5},
        {"name": ""},
        {"name": "A" * 129},
        {"name": "a b"},
        {"name": "é"},
        {"name": "a\0"},
        {"ip": ""},
        {"ip": "all"},
        {"ip": "10.0.0.0/33"},
        {"ip": KEY},
        {"ip": ["any"]},
        {"key": ""},
        {"key": "k" * 129},
        {"key": "k\n"},
        {"key": "ké"},
        {"key": f"{KEY}\0"},
        {"key": [KEY]},
        {KEY: "a key as a name"},
    ],
)
def test_a_wrong_field_is_refused_without_its_value(changes: dict[str, Any]) -> None:
    with pytest.raises(BadAnswer) as refused:
        parse(agent_json(**changes))
    assert KEY not in f"{refused.value.reason} {refused.value.detail} {refused.value!r}"


@pytest.mark.parametrize("missing", ["id", "name", "ip", "key"])
def test_a_missing_field_is_refused_by_name(missing: str) -> None:
    answer = agent()
    del answer["data"][missing]
    with pytest.raises(BadAnswer) as refused:
        parse(json.dumps(answer).encode())
    assert missing in refused.value.reason


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b" \n",
        b"null",
        b"[]",
        b"no json",
        b'{"error":0',
        agent_json() + agent_json(),
        agent_json() + b"\0",
        b"\xef\xbb\xbf" + agent_json(),
        agent_json().decode().encode("utf-16"),
        b'{"error":1,"message":"\xff"}',
        b'{"error":1,"message":"\\ud800"}',
        b'{"error":1}',
        b'{"error":1,"message":null}',
        b'{"error":0,"message":"fine"}',
        b'{"error":true,"message":"x"}',
        b'{"error":"1","message":"x"}',
        b'{"error":1.5,"message":"x"}',
        b'{"error":1e999,"message":"x"}',
        b'{"error":99999999999999999999,"message":"x"}',
        b'{"error":1,"message":"x","more":1}',
        b'{"message":"x"}',
        json.dumps(agent() | {"error": 1}).encode(),
        json.dumps(agent() | {"message": "fine"}).encode(),
        json.dumps(agent() | {"error": 1, "message": "x"}).encode(),
        b'{"error":0,"data":' + b"[" * 2000 + b"]" * 2000 + b"}",
        b'{"error":1,"message":"' + b"x" * MAXIMUM + b'"}',
    ],
)
def test_anything_else_is_a_bad_answer(answer: bytes) -> None:
    with pytest.raises(BadAnswer):
        parse(answer)


def test_another_agents_id_is_refused() -> None:
    with pytest.raises(BadAnswer):
        parse(agent_json(id="002"))
    with pytest.raises(BadAnswer):
        parse(agent_json(id="0001"))


@pytest.mark.parametrize("uuid", [OTHER_UUID, UUID_OF_VERSION_4])
def test_a_uuid_is_the_same_in_either_case(uuid: str) -> None:
    answer = parse(agent_json(id=uuid.upper()), Question("id", uuid))
    assert isinstance(answer, ExternalAgent)
    assert answer.id == uuid


def test_an_agent_asked_for_by_address_must_be_admitted_from_it() -> None:
    question = Question("ip", "192.168.1.100")
    assert isinstance(parse(agent_json(ip="192.168.1.100"), question), ExternalAgent)
    assert isinstance(parse(agent_json(ip="192.168.1.0/24"), question), ExternalAgent)
    with pytest.raises(BadAnswer):
        parse(agent_json(ip="192.168.1.101"), question)


@settings(deadline=None)
@given(st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_an_answer_or_a_bad_answer(answer: bytes) -> None:
    outcome = parsed_or_not(answer)
    assert isinstance(outcome, Refusal | BadAnswer)
    if isinstance(outcome, BadAnswer):
        assert KEY not in outcome.reason


@settings(deadline=None)
@given(data=st.fixed_dictionaries({}, optional=dict.fromkeys(["id", "name", "ip", "key"], VALUES)), error=ERRORS)
def test_only_a_valid_agent_is_read(data: dict[str, Any], error: object) -> None:
    outcome = parsed_or_not(json.dumps({"error": error, "data": agent()["data"] | data}).encode())
    if isinstance(outcome, BadAnswer):
        assert KEY not in outcome.reason
        return
    assert isinstance(outcome, ExternalAgent)
    assert outcome.id == ASKED.value
    assert 1 <= len(outcome.key) <= 128
