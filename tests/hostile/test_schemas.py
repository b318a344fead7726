"""Exploding JSON Schemas are refused at registration, or aborted at limits when args are checked."""

import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
import pytest
from support.batches import command
from support.others import assert_others_are_served
from support.server import Server, running_server
from support.speed import slowness
from support.waiting import PATIENCE, wait_until

from comms_api.actions.schemas import (
    CPU_SECONDS,
    DEPTH_MAXIMUM,
    EXPANDED_VALUES_MAXIMUM,
    SCHEMA_BYTES_MAXIMUM,
    Check,
    Schemas,
)
from comms_api.errors import Invalid, TooManyRequests
from comms_api.fairness.budgets import CpuBudget

Schema = dict[str, Any]


@pytest.fixture(scope="module")
def server(folder: Path, database_url: str) -> Iterator[Server]:
    with running_server(folder, database_url) as running:
        yield running


def chain(length: int, references: int) -> Schema:
    """Return a schema of definitions, each with some references to the next."""
    definitions: Schema = {
        f"d{number}": {"allOf": [{"$ref": f"#/$defs/d{number + 1}"}] * references} for number in range(length)
    }
    return {"$defs": definitions | {f"d{length}": {"type": "object"}}, "$ref": "#/$defs/d0"}


def unevaluated(depth: int) -> Schema:
    """Return a schema in which each level evaluates the next one several times."""
    schema: Schema = {"properties": {"a": True}}
    for _ in range(depth):
        schema = {"allOf": [schema], "unevaluatedProperties": False}
    return schema


REFUSED: dict[str, tuple[Schema, str]] = {
    "a bomb": (chain(24, 2), f"nested more than {DEPTH_MAXIMUM} deep, references included"),
    "a smaller bomb": (chain(16, 2), f"more than {EXPANDED_VALUES_MAXIMUM} values when each $ref is replaced"),
    "a long chain": (chain(1_000, 1), f"nested more than {DEPTH_MAXIMUM} deep"),
    "itself": ({"properties": {"child": {"$ref": "#"}}}, "must not refer to itself"),
    "deep": ({"a": [[[[{"b": unevaluated(40)}]]]]}, f"nested more than {DEPTH_MAXIMUM} deep"),
    "elsewhere": ({"$ref": "https://localhost/schema"}, "'https://localhost/schema' must begin with #/"),
    "an anchor": ({"$ref": "#here", "$defs": {"a": {"$anchor": "here"}}}, "'#here' must begin with #/"),
    "nothing": ({"$ref": "#/$defs/a~1b/0"}, "has no target"),
    "dynamic": ({"$dynamicRef": "#meta"}, "$dynamicRef is not supported"),
    "another base": ({"$defs": {"a": {"$id": "https://localhost/a"}}}, "$id is not supported here"),
    "a costly pattern": ({"properties": {"a": {"pattern": "^(a{1,1000}){1,1000}$"}}}, 'is not a "regex"'),
    "many patterns": ({"allOf": [{"pattern": f"^a{{1,{n}}}$"} for n in range(600)]}, "a pattern counts as"),
    "too costly at once": (unevaluated(24), f"schema: checking this took more than {CPU_SECONDS} s"),
    "an unknown meta-schema": ({"$schema": "https://localhost/schema"}, "meta-schema"),
}


def once_checked(ask: Callable[[], httpx.Response]) -> httpx.Response:
    """Repeat a request until its schema or args are checked, and return the answer.

    On a busy machine, the low priority of a check may delay it too long (503). The user then owes its CPU time (429).
    """
    delayed = (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS)
    answers = list[httpx.Response]()

    def is_checked() -> bool:
        answers.append(ask())
        return answers[-1].status_code not in delayed

    wait_until(is_checked)
    return answers[-1]


@pytest.mark.parametrize("kind", REFUSED)
def test_a_schema_that_could_explode_is_refused_with_a_reason(
    server: Server, management: httpx.Client, kind: str
) -> None:
    schema, sentence = REFUSED[kind]
    before = server.cpu_seconds()
    answer = once_checked(lambda: management.put("/actions/bomb", json={"schema": schema}))
    assert answer.status_code == 422, answer.text
    assert sentence in answer.json()["detail"]
    assert server.cpu_seconds() - before < 0.5 * slowness()


def test_a_schema_within_the_limits_is_registered(management: httpx.Client, quiet: UUID) -> None:
    definitions = {"a/b": {"enum": list(range(1_000))}, "name": {"pattern": "^[A-Za-z0-9._-]{1,255}$"}}
    properties = {"number": {"$ref": "#/$defs/a~1b"}, "names": {"items": {"$ref": "#/$defs/name"}}}
    schema = {"$id": "https://localhost/a", "$defs": definitions, "properties": properties}
    assert len(str(schema)) < SCHEMA_BYTES_MAXIMUM
    assert once_checked(lambda: management.put("/actions/good", json={"schema": schema})).status_code == 200
    for args, status in (({"number": 7, "names": ["a"] * 9_000}, 200), ({"number": -1, "names": ["a b"]}, 422)):
        submitted = command(quiet) | {"action": {"name": "good", "args": args}}
        answer = once_checked(partial(management.post, "/commands?dry_run=1", json=submitted))
        assert answer.status_code == status, answer.text
    assert "args.number: -1 is not one of" in answer.json()["detail"]
    assert "args.names[0]: " in answer.json()["detail"]


SLOW: dict[str, tuple[Schema, Any]] = {
    "time": ({"if": {"required": ["a"]}, "then": unevaluated(24)}, {"a": 1}),
    "memory": ({"anyOf": [{"anyOf": [{"type": "array"}] * 40}] * 80}, {"a": "x" * 60_000}),
}


@pytest.mark.parametrize("kind", SLOW)
def test_args_that_take_long_to_check_are_refused_in_bounded_time_and_other_clients_are_served(
    server: Server, management: httpx.Client, quiet: UUID, kind: str
) -> None:
    schema, args = SLOW[kind]
    spender = server.user(
        management, kind, "administrator"
    )  # a separate user, which owes no CPU time for the checks of other tests
    assert once_checked(lambda: spender.put(f"/actions/{kind}", json={"schema": schema})).status_code == 200
    submitted = command(quiet, user=kind) | {"action": {"name": kind, "args": args}}
    before = server.cpu_seconds()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(once_checked, lambda: spender.post("/commands", json=submitted))
        assert_others_are_served(server, management, quiet)
    assert answer.result().status_code == 422
    assert f"took more than {CPU_SECONDS} s of CPU time or" in answer.result().json()["detail"]
    assert server.cpu_seconds() - before < 1 * slowness()
    assert not psutil.Process(server.process.pid).children()


def test_one_user_cannot_occupy_every_check(server: Server, management: httpx.Client, quiet: UUID) -> None:
    spender, modest = (server.user(management, name, "administrator") for name in ("spender", "modest"))
    slow = {"schema": SLOW["time"][0]}
    assert once_checked(lambda: spender.put("/actions/slow", json=slow)).status_code == 200
    submitted = command(quiet, user="spender") | {"action": {"name": "slow", "args": {"a": 1}}}
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(spender.post, "/commands", json=submitted) for _ in range(8)]
        wait_until(lambda: [answer.result().status_code for answer in answers if answer.done()])
        answer = modest.put("/actions/other", json={"schema": {"type": "object"}})
        # On a busy machine, the low priority of the check may delay it too long.
        assert answer.status_code == 200 or "could not be checked" in answer.text, answer.text
    statuses = {answer.result().status_code for answer in answers}
    assert statuses <= {422, 429, 503}  # a request waits until four earlier ones have ended, and its user may owe time


class RecordingBudget(CpuBudget):
    """A budget that remembers every charge."""

    def __init__(self) -> None:
        super().__init__(PATIENCE)
        self.charged = Counter[object]()

    def charge(self, client: Hashable, seconds: float) -> None:
        self.charged[client] += seconds
        super().charge(client, seconds)


@pytest.mark.anyio
async def test_a_user_pays_for_the_cpu_time_of_checks() -> None:
    budget = RecordingBudget()
    schemas, schema = Schemas(budget), b'{"type": "array"}'
    await schemas.check_schema(schema, "spender")
    cheap = budget.charged["spender"]
    assert 0 < cheap < CPU_SECONDS
    slow = Check("args", json.dumps(SLOW["time"][0]), b'{"a": 1}')
    with pytest.raises(Invalid, match="args: checking this took more than"):
        await schemas.check([slow], "spender")
    assert budget.charged["spender"] == cheap + CPU_SECONDS
    budget.charge("spender", 1_000)
    with pytest.raises(TooManyRequests, match="more than your share of CPU time"):
        await schemas.check_schema(schema, "spender")
    await schemas.check_schema(schema, "another")
