"""Events of the fleet: pages in both orders, filters, a reader that misses nothing, and retention."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import asyncpg
import httpx
import pytest
from sqlalchemy import make_url, text
from support.databases import plain_url
from support.raw import connect, request
from support.server import Server, running_server
from support.waiting import PATIENCE, wait_until

from comms_api.database.connection import Engine
from comms_api.database.listener import Notifier
from comms_api.fleet import store
from comms_api.fleet.model import FleetEventFilter
from comms_api.fleet.service import FleetEvents
from comms_api.fleet.tail import FleetFollowers
from comms_api.settings import Settings
from comms_api.webhooks.service import enqueue

Query = Callable[..., list[asyncpg.Record]]
ADD = "INSERT INTO outbox (kind, node) SELECT 'described', $1 || number FROM generate_series(1, $2::int) AS number"


def read(management: httpx.Client, **query: Any) -> list[dict[str, Any]]:
    answer = management.get("/fleet/events", params=query)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def pages(management: httpx.Client, **query: Any) -> list[str]:
    """Return the nodes of the events on all pages."""
    found, after = [], {}
    while True:
        page = management.get("/fleet/events", params=query | after).json()
        found += [event["node"] for event in page["items"]]
        if page["next"] is None:
            return found
        after = {"after": page["next"]}


def test_pages_follow_both_orders_and_filters(management: httpx.Client, query: Query) -> None:
    query(ADD, "paged-", 7)
    wait_until(lambda: read(management, node="paged-7"))
    [first], [last] = read(management, node="paged-1"), read(management, node="paged-7")
    inside = {"after": first["position"] - 1, "limit": 2}
    assert pages(management, **inside) == [f"paged-{number}" for number in range(1, 8)]
    newest = pages(management, order="newest", limit=3, after=last["position"])
    assert newest[:6] == [f"paged-{number}" for number in range(6, 0, -1)]
    assert read(management, node="paged-3", kind="described", since=first["at"])[0]["node"] == "paged-3"
    assert read(management, until=first["at"], after=first["position"] - 1) == []
    assert [event["node"] for event in read(management, order="newest", limit=1)] == ["paged-7"]


@pytest.mark.parametrize("query", [{"kind": "x"}, {"after": -1}, {"after": "x"}, {"order": "up"}, {"after": 2**63}])
def test_an_invalid_query_is_refused(management: httpx.Client, query: dict[str, Any]) -> None:
    assert management.get("/fleet/events", params=query).status_code == 400


def test_a_position_from_before_a_restore_is_a_conflict(management: httpx.Client) -> None:
    answer = management.get("/fleet/events", params={"after": 10**9})
    assert (answer.status_code, "restored" in answer.json()["detail"]) == (409, True)


def test_a_reader_gets_an_event_that_commits_late(management: httpx.Client, database_url: str, query: Query) -> None:
    async def run() -> list[dict[str, Any]]:
        connection = await asyncpg.connect(plain_url(make_url(database_url)))
        try:
            late = connection.transaction()
            await late.start()
            await connection.execute(ADD, "late-", 1)
            await asyncio.to_thread(query, ADD, "early-", 1)
            await asyncio.to_thread(wait_until, lambda: read(management, node="early-1"))
            [early] = await asyncio.to_thread(lambda: read(management, node="early-1"))
            await late.commit()
            following = {"after": early["position"]}
            await asyncio.to_thread(wait_until, lambda: read(management, **following))
            return [early, *await asyncio.to_thread(lambda: read(management, **following))]
        finally:
            await connection.close()

    early, late = asyncio.run(run())
    assert (early["node"], late["node"]) == ("early-1", "late-1")
    assert late["id"] < early["id"]


@pytest.mark.anyio
async def test_positions_become_visible_in_their_order_while_several_nodes_publish(engine: Engine) -> None:
    services = [FleetEvents(engine, Notifier(engine, {}), Settings(), enqueue) for _ in range(3)]
    seen: list[int] = []

    async def add(number: int) -> None:
        for _ in range(40):
            async with engine.begin() as connection:
                await connection.driver.execute(ADD, f"busy-{number}-", 3)
                await asyncio.sleep(0.001 * number)

    async def follow() -> None:
        while len(seen) < 480:
            page = await services[0].list(store.FleetEventFilter(), "oldest", seen[-1] if seen else start, 100)
            seen.extend(event.position for event in page.items)
            await asyncio.sleep(0.001)

    async def publish(service: FleetEvents) -> None:
        while len(seen) < 480:
            await service.publish()
            await asyncio.sleep(0.002)

    async with engine.connect() as connection:
        start = await store.newest_position(connection)
    await asyncio.gather(*map(add, range(4)), *map(publish, services), follow())
    async with engine.connect() as connection:
        stored = await connection.scalars(
            text(f"SELECT position FROM fleet_events WHERE position > {start} ORDER BY 1")
        )
    assert seen == stored


@pytest.mark.anyio
async def test_events_that_are_too_old_or_too_many_are_deleted(engine: Engine) -> None:
    async with engine.begin() as connection:
        await connection.driver.execute("DELETE FROM fleet_events")
        await connection.driver.execute(ADD, "kept-", 5)
        while await store.publish(connection, 100):
            pass
        await connection.driver.execute("UPDATE fleet_events SET at = at - interval '8 days' WHERE node = 'kept-4'")
        while await store.trim(connection, days=7, rows=3, limit=1):
            pass
        assert await connection.scalars(text("SELECT node FROM fleet_events ORDER BY position")) == ["kept-3", "kept-5"]


def follow(client: httpx.Client, **query: Any) -> dict[str, Any]:
    answer = client.get("/fleet/events/tail", params=query)
    assert answer.status_code == 200, answer.text
    tail: dict[str, Any] = answer.json()
    return tail


def test_a_follower_at_another_node_waits_until_its_events_are_published(
    server: Server, management: httpx.Client, database_url: str, query: Query
) -> None:
    with running_server(server.folder, database_url) as other, ThreadPoolExecutor() as threads:
        here = {"server": management, "other": other.management()}
        begin = follow(management)
        assert begin["items"] == []
        for number in range(3):  # whichever node publishes, both followers are woken
            waiting = [
                threads.submit(follow_until, client, begin["next"], f"awaited-{number}-1") for client in here.values()
            ]
            query(ADD, "other-", 1)
            query(ADD, f"awaited-{number}-", 1)
            [first, second] = [tail.result() for tail in waiting]
            assert first["items"] == second["items"]
            begin = first
        assert follow(management, after=begin["next"], node="nowhere") == {"items": [], "next": begin["next"]}


def follow_until(client: httpx.Client, after: int, node: str) -> dict[str, Any]:
    """Follow the events of a node until there is one; the positions of other events are passed."""
    tail: dict[str, Any] = {"items": [], "next": after}
    while not tail["items"]:
        tail = follow(client, node=node, after=tail["next"], wait=30)
    return tail


def test_a_user_has_a_bounded_number_of_followers_of_the_fleet(server: Server, management: httpx.Client) -> None:
    greedy, modest = (server.user(management, name, "reader") for name in ("greedy-reader", "modest-reader"))
    token = greedy.headers["Authorization"].removeprefix("Bearer ")
    begin = follow(management)["next"]
    with ExitStack() as stack:

        def is_refused_with_another_follower() -> bool:
            connection = stack.enter_context(connect(server.tls, server.management_port))
            path = f"/fleet/events/tail?wait=30&node=nowhere&after={begin}"
            connection.sendall(request("GET", path, token))
            return greedy.get("/fleet/events/tail").status_code == 429

        wait_until(is_refused_with_another_follower)
        assert modest.get("/fleet/events/tail").status_code == 200
    wait_until(lambda: greedy.get("/fleet/events/tail").status_code == 200)


@pytest.mark.anyio
async def test_a_node_that_drains_answers_its_followers(engine: Engine) -> None:
    followers = FleetFollowers(engine)
    waiting = asyncio.create_task(followers.read(FleetEventFilter(node="nowhere"), 0, 1, PATIENCE))
    followers.drain()
    async with asyncio.timeout(PATIENCE / 2):
        assert (await waiting).items == []
