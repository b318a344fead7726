"""Followers get every acknowledged event, however late its transaction commits."""

import asyncio
import base64
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
from sqlalchemy import make_url
from support.batches import stateless
from support.databases import plain_url, querying
from support.events import batch_of, store_batch
from support.raw import connect, request
from support.server import Server, running_server
from support.waiting import wait_until

from comms_api.database.uuid7 import uuid7_at

WAIT = 30


@pytest.fixture(scope="module")
def agent_id(server: Server, management: httpx.Client) -> UUID:
    return server.enroll(management, "followed")


@pytest.fixture(scope="module")
def agent(server: Server, agent_id: UUID) -> httpx.Client:
    return server.log_in(agent_id)


def send(agent: httpx.Client, agent_id: UUID, *names: str, module: str = "logcollector") -> None:
    batch = stateless(agent_id, *({"name": name} for name in names), module=module)
    agent.post("/events/stateless", content=batch).raise_for_status()


def tail(management: httpx.Client, **query: Any) -> dict[str, Any]:
    answer = management.get("/events/tail", params=query)
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


def names(content: dict[str, Any]) -> list[str]:
    return [item["event"]["name"] for item in content["items"]]


def follow(management: httpx.Client, after: str, count: int, **query: Any) -> tuple[list[str], str]:
    """Return the names of the next events, and the cursor after them."""
    found: list[str] = []
    while len(found) < count:
        content = tail(management, after=after, wait=WAIT, **query)
        found, after = found + names(content), content["next"]
    return found, after


@contextmanager
def open_transaction(url: str, *, application: str = "held") -> Iterator[Callable[..., Any]]:
    """Run a transaction in a separate connection; it ends by `COMMIT`, or is rolled back after the block."""
    loop = asyncio.new_event_loop()
    connect = asyncpg.connect(plain_url(make_url(url)), server_settings={"application_name": application})
    connection = loop.run_until_complete(connect)
    run = lambda statement, *values: loop.run_until_complete(connection.execute(statement, *values))  # noqa: E731
    try:
        run("BEGIN")
        yield run
    finally:
        loop.run_until_complete(connection.close())
        loop.close()


def test_a_follower_begins_now_and_gets_each_event_once(
    management: httpx.Client, agent: httpx.Client, agent_id: UUID
) -> None:
    send(agent, agent_id, "before")
    begin = tail(management)
    assert begin["items"] == []
    send(agent, agent_id, "a", "b", "c")
    send(agent, agent_id, "d")
    assert follow(management, begin["next"], 4)[0] == ["a", "b", "c", "d"]
    assert follow(management, begin["next"], 4, limit=1)[0] == ["a", "b", "c", "d"]
    _, after = follow(management, begin["next"], 4, limit=3)
    assert tail(management, after=after)["items"] == []


def test_a_waiting_follower_gets_an_event_when_it_is_stored(
    server: Server, management: httpx.Client, agent: httpx.Client, agent_id: UUID
) -> None:
    after, other = tail(management)["next"], server.user(management, "waiting-follower", "reader")
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(lambda: tail(other, after=after, wait=WAIT))
        assert tail(management, after=after, wait=0.2)["items"] == []
        send(agent, agent_id, "awaited")
        assert names(answer.result()) == ["awaited"]


def test_filters_hold_for_followers(management: httpx.Client, agent: httpx.Client, agent_id: UUID) -> None:
    after = tail(management)["next"]
    send(agent, agent_id, "one", "two", module="fim")
    send(agent, agent_id, "three")
    assert names(tail(management, after=after, wait=WAIT, module="logcollector")) == ["three"]
    assert names(tail(management, after=after, wait=WAIT, contains='"two"')) == ["two"]
    missed = tail(management, after=after, module="elsewhere")
    assert missed["items"] == []
    assert tail(management, after=missed["next"])["items"] == []


def test_a_follower_may_begin_at_a_time(management: httpx.Client, agent: httpx.Client, agent_id: UUID) -> None:
    send(agent, agent_id, "first of all")
    query = {"order": "newest", "agent_id": str(agent_id), "limit": 1}
    [event] = management.get("/events", params=query).json()["items"]
    send(agent, agent_id, "later")
    content = tail(management, since=event["received_at"], wait=WAIT)
    assert names(content)[-2:] == ["first of all", "later"]
    assert all(item["received_at"] >= event["received_at"] for item in content["items"])
    send(agent, agent_id, "latest")
    assert follow(management, content["next"], 1)[0] == ["latest"]


def test_a_commit_that_others_overtake_is_not_skipped(
    management: httpx.Client, agent: httpx.Client, agent_id: UUID, database_url: str
) -> None:
    begin = tail(management)["next"]
    late = batch_of(uuid7_at(time.time()), agent_id, [b'{"name":"late"}'])
    send(agent, agent_id, "early")
    _, after = follow(management, begin, 1)
    with open_transaction(database_url, application="a slow relay") as run:
        store_batch(run, late)
        send(agent, agent_id, "overtaking")
        held = [tail(management, after=after)]
        wait_until(lambda: held.append(tail(management, after=after)) or held[-1]["held_back"])
        assert all(content["items"] == [] for content in held)
        assert "application a slow relay" in held[-1]["held_back"]["by"]
        assert held[-1]["held_back"]["seconds"] >= 1
        run("COMMIT")
    assert follow(management, after, 2)[0] == ["late", "overtaking"]
    assert follow(management, begin, 3)[0] == ["early", "late", "overtaking"]
    assert tail(management)["held_back"] is None


def test_a_cursor_of_another_database_is_refused(management: httpx.Client) -> None:
    after = tail(management)["next"]
    fields = json.loads(base64.urlsafe_b64decode(after + "=="))
    for index, value in ((0, "1"), (1, 2**40), (1, -1)):
        forged = base64.urlsafe_b64encode(json.dumps([*fields[:index], value, *fields[index + 1 :]]).encode()).decode()
        answer = management.get("/events/tail", params={"after": forged})
        assert answer.status_code == 409
        assert "since" in answer.json()["detail"]
    for nonsense in ("x", after[:-3], str(UUID(int=0)), "é"):
        assert management.get("/events/tail", params={"after": nonsense}).status_code == 400


def test_a_user_has_a_bounded_number_of_followers_until_they_leave(server: Server, management: httpx.Client) -> None:
    greedy, modest = (server.user(management, name, "reader") for name in ("greedy-follower", "modest-follower"))
    token = greedy.headers["Authorization"].removeprefix("Bearer ")
    with ExitStack() as stack:

        def is_refused_with_another_follower() -> bool:
            connection = stack.enter_context(connect(server.tls, server.management_port))
            connection.sendall(request("GET", f"/events/tail?wait={WAIT}&module=nothing", token))
            return greedy.get("/events/tail").status_code == 429

        wait_until(is_refused_with_another_follower)
        assert modest.get("/events/tail").status_code == 200
    wait_until(lambda: greedy.get("/events/tail").status_code == 200)


def test_the_events_of_a_restored_dump_are_followed_after_a_start(
    folder: Path, new_database: Callable[[], str]
) -> None:
    url = new_database()
    restored = [batch_of(uuid7_at(time.time()), UUID(int=number), [b'{"name":"restored"}']) for number in range(3)]
    with running_server(folder / "dumped", url) as server:
        agent_id = server.enroll(server.management(), "restored")
        send(server.log_in(agent_id), agent_id, "later")
        [[known]] = querying(url)("SELECT xact FROM event_batches")
    for batch in restored:
        store_batch(querying(url), batch)
    querying(url)("UPDATE event_batches SET xact = 1000000000 + xact WHERE agent_id <> $1", agent_id)
    with running_server(folder / "dumped", url) as server:
        found = tail(server.management(), since="2020-01-01T00:00:00Z", wait=WAIT)
    assert names(found) == ["restored"] * 3 + ["later"]
    assert querying(url)("SELECT xact FROM event_batches WHERE agent_id = $1", agent_id) == [(known,)]
