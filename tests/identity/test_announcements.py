"""A change of files or groups is announced again, after a pause that doubles, until the agent has applied it."""

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest
from sqlalchemy import Select, text
from support.databases import PATIENT, querying
from support.orders import make_submissions
from support.server import Server, running_server, start_server
from support.waiting import PATIENCE, wait_until

from comms_api.agents.configuration_changes import note_files_changed
from comms_api.database.connect import open_engine
from comms_api.database.connection import Engine
from comms_api.database.listener import Notifier
from comms_api.duties.health import DutyHealth
from comms_api.duties.repeating import repeating
from comms_api.files.announcements import check_announcements, find_settling_seconds, take_changes, track_orders
from comms_api.files.announcer import Announcer
from comms_api.files.service import Files
from comms_api.groups.model import NewGroup
from comms_api.groups.service import Groups
from comms_api.orders.dispatcher import ORDERS_CHANNEL
from comms_api.orders.transitions import expire_orders
from comms_api.protocol import FETCH_CONFIG_ACTION, SET_GROUP_ACTION
from comms_api.settings import Settings

Query = Callable[..., list[Any]]

FETCH = {"name": "fetch-config", "args": {}, "version": ""}
DUPLICATE = "Agent's database failure"


def next_order(client: httpx.Client) -> dict[str, Any]:
    """Poll until there is an order; there must be no other."""
    orders: list[dict[str, Any]] = []
    wait_until(lambda: orders.extend(client.get("/commands?wait=10").json()["commands"]) or orders)
    [order] = orders
    return order


def report(client: httpx.Client, order: dict[str, Any], code: int, message: str = "") -> None:
    result = {"order_id": order["order_id"], "result": {"code": code, "message": message}}
    [outcome] = client.post("/commands/results", json={"results": [result]}).json()["results"]
    assert outcome["result"] == "updated"


def let_pause_end(query: Query, agent_id: UUID) -> None:
    query("UPDATE announcements SET check_at = now() WHERE agent_id = $1", agent_id)


def is_announced(query: Query, agent_id: UUID) -> bool:
    return not query("SELECT FROM announcements WHERE agent_id = $1", agent_id)


@pytest.fixture
def agent(server: Server, management: httpx.Client, request: pytest.FixtureRequest) -> tuple[UUID, httpx.Client]:
    """An agent with a pending announcement of a new file; the test's name is the name of the agent and its group."""
    name = request.node.name[5:40]
    management.post("/groups", json={"name": name})
    agent_id = server.enroll(management, name, (name,))
    management.put(f"/groups/{name}/files/{name}.yml", content="a: 1")
    return agent_id, server.log_in(agent_id)


def test_a_failed_order_is_repeated_after_a_pause_until_it_succeeds(
    agent: tuple[UUID, httpx.Client], query: Query
) -> None:
    agent_id, client = agent
    first = next_order(client)
    report(client, first, 1, DUPLICATE)
    second = next_order(client)  # after the real pause
    assert (first["action"], second["action"]) == (FETCH, FETCH)
    made = "SELECT EXTRACT(epoch FROM max(created_at) - min(created_at)) >= 10 FROM finished_orders WHERE agent_id = $1"
    report(client, second, 1, DUPLICATE)
    assert query(made, agent_id)[0][0]
    let_pause_end(query, agent_id)
    third = next_order(client)
    report(client, third, 0)
    let_pause_end(query, agent_id)
    wait_until(lambda: is_announced(query, agent_id))
    assert client.get("/commands?wait=0").json()["commands"] == []
    assert len({order["order_id"] for order in (first, second, third)}) == 3


def test_a_failed_move_is_repeated_with_the_groups_as_they_are_then(
    server: Server, management: httpx.Client, query: Query
) -> None:
    for group in ("moved-1", "moved-2"):
        management.post("/groups", json={"name": group})
    agent_id = server.enroll(management, "moved twice")
    client = server.log_in(agent_id)
    management.put(f"/groups/moved-1/agents/{agent_id}")
    order = next_order(client)
    assert order["action"]["args"] == {"groups": ["moved-1"]}
    query("INSERT INTO group_members VALUES ('moved-2', $1)", agent_id)  # a change that is not announced
    report(client, order, 4)
    let_pause_end(query, agent_id)
    order = next_order(client)
    assert (order["action"]["name"], order["action"]["args"]) == ("set-group", {"groups": ["moved-1", "moved-2"]})
    report(client, order, 0)
    let_pause_end(query, agent_id)
    wait_until(lambda: is_announced(query, agent_id))


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ("UPDATE orders SET expires_at = now() WHERE order_id = $1", "expired after delivery, without an answer"),
        # A real agent answers each further offer with a report that does not end the order.
        ("UPDATE orders SET attempt = 1000 WHERE order_id = $1", "expired after delivery, without an answer"),
    ],
)
def test_an_order_without_an_answer_is_repeated(
    server: Server, management: httpx.Client, query: Query, end: str, message: str
) -> None:
    agent_id = server.enroll(management, f"silent {end[18:25]}")
    management.post("/groups", json={"name": "silent"})
    management.put(f"/groups/silent/agents/{agent_id}")
    client = server.log_in(agent_id)
    first = next_order(client)
    query(end, UUID(first["order_id"]))
    let_pause_end(query, agent_id)
    wait_until(lambda: management.get(f"/orders/{first['order_id']}").json()["status"] == "failure")
    if "attempt" not in end:
        let_pause_end(query, agent_id)
    second = next_order(client)
    assert (second["action"], second["order_id"] != first["order_id"]) == (first["action"], True)
    assert management.get(f"/orders/{first['order_id']}").json()["result"]["message"] == message
    report(client, second, 0)


def test_an_order_that_an_operator_cancels_is_not_repeated(
    agent: tuple[UUID, httpx.Client], management: httpx.Client, query: Query
) -> None:
    agent_id, client = agent
    order = next_order(client)
    management.post(f"/orders/{order['order_id']}/cancel")
    let_pause_end(query, agent_id)
    wait_until(lambda: is_announced(query, agent_id))
    assert [order["action"]["name"] for order in client.get("/commands?wait=0").json()["commands"]] == ["cancel"]


def test_an_agent_that_reports_its_files_is_not_ordered_again(
    agent: tuple[UUID, httpx.Client], management: httpx.Client, query: Query
) -> None:
    agent_id, client = agent
    order = next_order(client)
    sha256 = management.get(f"/agents/{agent_id}/configuration").json()["wanted"]
    client.put("/configuration", json={"sha256": sha256})
    report(client, order, 4, "the agent was restarted while it executed this order")
    let_pause_end(query, agent_id)
    wait_until(lambda: is_announced(query, agent_id))
    assert client.get("/commands?wait=0").json()["commands"] == []


def test_an_open_order_is_not_repeated(agent: tuple[UUID, httpx.Client], query: Query) -> None:
    agent_id, client = agent
    wait_until(lambda: not is_announced(query, agent_id))
    let_pause_end(query, agent_id)
    wait_until(lambda: query("SELECT FROM announcements WHERE agent_id = $1 AND check_at > now()", agent_id))
    assert next_order(client)["action"] == FETCH
    query("UPDATE orders SET offer_at = now() + interval '1 hour' WHERE agent_id = $1", agent_id)  # extends its lease
    assert client.get("/commands?wait=0").json()["commands"] == []


def test_another_node_repeats_announcements_that_failed_before_all_nodes_were_killed(
    folder: Path, new_database: Callable[[], str]
) -> None:
    url = new_database()
    query = querying(url)
    first = start_server(folder / "first", url)
    try:
        management = first.management()
        management.post("/groups", json={"name": "survives"})
        agent_id = first.enroll(management, "survivor", ("survives",))
        management.put("/groups/survives/files/a.txt", content="a")
        client = first.log_in(agent_id)
        report(client, next_order(client), 1, DUPLICATE)
    finally:
        first.stop(signal.SIGKILL)
    secret = folder / "first" / "data" / "secret"
    with running_server(folder / "second", url, secret_file=secret) as second:
        let_pause_end(query, agent_id)
        client = second.log_in(agent_id)
        order = next_order(client)
        assert order["action"] == FETCH
        report(client, order, 0)


def test_nothing_is_repeated_for_a_deleted_agent(
    agent: tuple[UUID, httpx.Client], management: httpx.Client, query: Query
) -> None:
    agent_id, _ = agent
    wait_until(lambda: not is_announced(query, agent_id))
    assert management.delete(f"/agents/{agent_id}").status_code == 204
    let_pause_end(query, agent_id)
    wait_until(lambda: is_announced(query, agent_id))


@pytest.fixture
async def idle_engine(idle_url: str) -> AsyncIterator[Engine]:
    """An engine on a database that no node serves."""
    opened = open_engine(idle_url, PATIENT)
    yield opened
    await opened.dispose()


@pytest.fixture
def idle_url(new_database: Callable[[], str]) -> str:
    return new_database()


async def execute(engine: Engine, *statements: str) -> None:
    async with engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))


@pytest.mark.anyio
async def test_nothing_settles_when_nothing_has_changed(idle_engine: Engine) -> None:
    async with idle_engine.connect() as connection:
        assert await find_settling_seconds(connection, 0.5) is None


@pytest.mark.anyio
async def test_changes_that_continue_delay_an_announcement_by_ten_settle_times_at_most(idle_engine: Engine) -> None:
    groups = Groups(idle_engine, asyncio.Event())
    await execute(idle_engine, "INSERT INTO agents (id, name, key_hash) VALUES (uuid7(), 'restless', '')")
    await groups.create(NewGroup("restless"))
    for seconds, taken in ((500, 0), (601, 1)):
        await groups.add("restless", ["restless"])
        earlier = f"UPDATE configuration_changes SET first_changed_at = now() - interval '{seconds} s'"
        await execute(idle_engine, earlier)
        async with idle_engine.begin() as connection:
            assert await note_files_changed(connection, "restless") == 1
            settling = await find_settling_seconds(connection, 60)
            assert settling is not None
            assert settling == 0 if taken else settling > 0
            assert len(await take_changes(connection, 60, 10)) == taken


@pytest.mark.anyio
async def test_the_pause_doubles_up_to_an_hour(idle_engine: Engine) -> None:
    pause = "SELECT EXTRACT(epoch FROM check_at - now())::int FROM announcements"
    request_id, seen = uuid4(), []
    await execute(
        idle_engine,
        "INSERT INTO agents (id, name, key_hash) SELECT uuid7(), number, '' FROM generate_series(1, 3) AS number",
        "INSERT INTO orders (order_id, request_id, agent_id, agent_groups)"
        f" SELECT uuid7(), '{request_id}', id, '{{}}' FROM agents",
    )
    async with idle_engine.begin() as connection:
        await track_orders(connection, request_id, has_moved=True)
        await expire_orders(connection, 10)
        seen.append(set(await connection.scalars(text(pause))))
        for _ in range(11):
            await connection.execute(text("UPDATE announcements SET check_at = now()"))
            assert len((await check_announcements(connection, 10, 2))[1]) == 2
            due, failed = await check_announcements(connection, 10, 2)
            assert (due, len(failed)) == (1, 1)
            seen.append(set(await connection.scalars(text(pause))))
    assert seen == [{min(10 * 2**failures, 3600)} for failures in range(12)]


def make_announcer(engine: Engine, has_changes: asyncio.Event) -> Announcer:
    notifier = Notifier(engine, {ORDERS_CHANNEL: lambda _: None})
    return Announcer(engine, make_submissions(engine, notifier), notifier, has_changes, Settings())


@pytest.mark.anyio
async def test_a_repeat_is_noted_once_until_the_next_check(idle_engine: Engine) -> None:
    announcer = make_announcer(idle_engine, asyncio.Event())
    await execute(
        idle_engine,
        "INSERT INTO agents (id, name, key_hash) VALUES (uuid7(), 'lost', '')",
        "INSERT INTO announcements SELECT id, has_moved, uuid7() FROM agents, unnest(ARRAY[true, false]) AS has_moved",
    )
    assert [await announcer.repeat() for _ in range(2)] == [2, 0]  # orders that cannot be found count as failed
    noted = "SELECT name, has_moved FROM configuration_changes JOIN agents ON agent_id = id"
    async with idle_engine.connect() as connection:
        assert await connection.execute(text(noted)) == [("lost", True)]
    await execute(idle_engine, "UPDATE configuration_changes SET changed_at = now() - interval '1 min'")
    assert [await announcer.announce() for _ in range(2)] == [1, 0]
    assert await announcer.repeat() == 0


@pytest.mark.anyio
async def test_many_announcements_keep_no_statement_in_memory(idle_engine: Engine) -> None:
    announcer = make_announcer(idle_engine, asyncio.Event())
    await execute(idle_engine, "INSERT INTO agents (id, name, key_hash) VALUES (uuid7(), 'moving', '')")

    async def announce() -> None:
        move = "INSERT INTO configuration_changes SELECT id, true, now() - interval '1 min' FROM agents"
        await execute(idle_engine, move)
        assert await announcer.announce() == 1

    await announce()  # creates the constant statements
    kept = count_statements()
    for _ in range(20):
        await announce()
    assert count_statements() == kept


def count_statements() -> int:
    """Return the number of statements in memory; each keeps the values that it was built with."""
    gc.collect()
    return sum(isinstance(found, Select) for found in gc.get_objects())


@pytest.mark.anyio
async def test_a_change_is_announced_without_waiting_for_the_next_sweep(idle_engine: Engine) -> None:
    has_changes = asyncio.Event()
    groups, files = Groups(idle_engine, has_changes), Files(idle_engine, has_changes)
    announcer = make_announcer(idle_engine, has_changes)
    await execute(idle_engine, "INSERT INTO agents (id, name, key_hash) VALUES (uuid7(), 'awaiting', '')")
    await groups.create(NewGroup("prompt"))
    duties = [msgspec.structs.replace(duty, every_seconds=None) for duty in announcer.duties()]  # no sweep
    async with repeating(duties, DutyHealth(lambda _: None)):
        await groups.add("prompt", ["awaiting"])
        await announced(idle_engine, SET_GROUP_ACTION, 1)
        for number in range(10):
            await files.put("prompt", "prompt.yml", f"a: {number}".encode(), "admin")
            await asyncio.sleep(0.1)
        await announced(idle_engine, FETCH_CONFIG_ACTION, 1)
        await files.delete("prompt", "prompt.yml")
        # It has not been offered the order to fetch yet, which serves for this change, too.
        await until_no_changes(idle_engine)
        await announced(idle_engine, FETCH_CONFIG_ACTION, 1)
        await groups.delete("prompt")
        await announced(idle_engine, SET_GROUP_ACTION, 2)


async def announced(engine: Engine, action: str, number: int) -> None:
    """Wait until there are this many orders with an action, and no more."""
    count = text("SELECT count(*) FROM orders JOIN commands USING (request_id) WHERE action_name = :action")
    async with asyncio.timeout(PATIENCE), engine.connect() as connection:
        while (found := await connection.scalar(count, {"action": action})) < number:  # noqa: ASYNC110 - PostgreSQL's
            await asyncio.sleep(0.01)
    assert found == number


async def until_no_changes(engine: Engine) -> None:
    async with asyncio.timeout(PATIENCE), engine.connect() as connection:
        while await connection.scalar(text("SELECT count(*) FROM configuration_changes")):  # noqa: ASYNC110 - also
            await asyncio.sleep(0.01)
