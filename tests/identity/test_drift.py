"""Agents that run an old configuration are found, even if they never report the hash of their files."""

import asyncio
import hashlib
import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import text
from support.server import Server
from support.waiting import wait_until

from comms_api.agents import store
from comms_api.agents.model import AgentFilter, Visibility
from comms_api.database.connection import Engine
from comms_api.files import drift
from comms_api.files.model import DriftFilter
from comms_api.files.service import Files

Query = Callable[..., list[Any]]


class RealAgent:
    """Fetches `GROUP.yml` of each of its groups and reports its orders; it never reports a hash."""

    def __init__(self, server: Server, management: httpx.Client, name: str, *groups: str) -> None:
        self.id = server.enroll(management, name, groups)
        self.client = server.log_in(self.id)
        self._management = management

    def next_order(self) -> dict[str, Any]:
        orders: list[dict[str, Any]] = []
        wait_until(lambda: orders.extend(self.client.get("/commands?wait=10").json()["commands"]) or orders)
        [order] = orders
        return order

    def fetch(self, *names: str) -> None:
        for name in names:
            assert self.client.get(f"/files?file_name={name}").status_code == 200

    def report(self, order: dict[str, Any], code: int = 0) -> None:
        results = [{"order_id": order["order_id"], "result": {"code": code, "message": ""}}]
        [outcome] = self.client.post("/commands/results", json={"results": results}).json()["results"]
        assert outcome["result"] == "updated"

    def apply(self, *names: str) -> None:
        """Do the next order: fetch these files and report it as done."""
        order = self.next_order()
        self.fetch(*names)
        self.report(order)

    @property
    def drift(self) -> dict[str, Any]:
        shown: dict[str, Any] = self._management.get(f"/agents/{self.id}/configuration").json()
        assert shown["in_sync"] == (shown["status"] == "in_sync")
        return shown

    @property
    def status(self) -> str:
        status: str = self.drift["status"]
        return status


def make_groups(management: httpx.Client, *names: str) -> None:
    for name in names:
        management.post("/groups", json={"name": name})
        put(management, name, f"{name}.yml", f"{name}: 1")


def put(management: httpx.Client, group: str, name: str, content: str) -> None:
    assert management.put(f"/groups/{group}/files/{name}", content=content).status_code == 200


def counts(management: httpx.Client, group: str) -> tuple[int, int, int, int]:
    found = management.get(f"/groups/{group}/configuration").json()
    assert found["group"] == group
    return found["agents"], found["in_sync"], found["pending"], found["failed"]


def test_an_agent_that_fetched_the_files_and_reported_the_order_is_in_sync(
    server: Server, management: httpx.Client
) -> None:
    make_groups(management, "synced")
    agent = RealAgent(server, management, "synced", "synced")
    put(management, "synced", "synced.yml", "a: 2")
    order = agent.next_order()
    assert (agent.status, agent.drift["fetched_at"], agent.drift["reported_at"]) == ("pending", None, None)
    agent.fetch("synced.yml")
    assert agent.status == "pending"  # it may still fail to apply it
    agent.report(order)
    assert agent.status == "in_sync"
    assert agent.drift["reported"] == agent.drift["wanted"]
    assert agent.drift["fetched_at"] < agent.drift["reported_at"]
    assert management.get("/agents?group=synced&in_sync=true").json()["items"][0]["id"] == str(agent.id)
    put(management, "synced", "synced.yml", "a: 3")
    assert agent.status == "pending"
    agent.apply("synced.yml")
    assert agent.status == "in_sync"


def test_a_report_without_a_fetch_or_after_a_failure_counts_as_nothing(
    server: Server, management: httpx.Client, query: Query
) -> None:
    make_groups(management, "unsure")
    agent = RealAgent(server, management, "unsure", "unsure")
    put(management, "unsure", "unsure.yml", "a: 2")
    agent.apply()
    assert agent.status == "pending"
    put(management, "unsure", "unsure.yml", "a: 3")
    order = agent.next_order()
    agent.fetch("unsure.yml")
    agent.report(order, code=1)
    assert agent.status == "failed"
    assert counts(management, "unsure") == (1, 0, 0, 1)
    query("UPDATE announcements SET check_at = now() WHERE agent_id = $1", agent.id)
    agent.apply("unsure.yml")
    assert agent.status == "in_sync"


def test_a_file_that_changes_between_fetch_and_report_leaves_the_agent_behind(
    server: Server, management: httpx.Client
) -> None:
    make_groups(management, "late", "later")
    agent = RealAgent(server, management, "late", "late", "later")
    put(management, "late", "late.yml", "a: 2")
    order = agent.next_order()
    agent.fetch("late.yml")
    put(management, "late", "late.yml", "a: 3")
    agent.fetch("later.yml")  # of the next version: the agent has a mixture
    agent.report(order)
    assert agent.status == "pending"
    agent.apply("late.yml", "later.yml")
    assert agent.status == "in_sync"


def test_the_merged_file_stands_for_all_groups_and_one_group_only_for_itself(
    server: Server, management: httpx.Client
) -> None:
    make_groups(management, "part", "whole")
    agent = RealAgent(server, management, "partial", "part", "whole")
    put(management, "part", "part.yml", "a: 2")
    agent.apply("part.yml")
    assert agent.status == "pending"
    put(management, "part", "part.yml", "a: 3")
    agent.apply("merged.yml")
    assert agent.status == "in_sync"


def test_an_agent_that_moves_is_in_sync_after_it_has_changed_its_groups(
    server: Server, management: httpx.Client
) -> None:
    make_groups(management, "from", "to")
    management.post("/groups", json={"name": "empty"})
    agent = RealAgent(server, management, "mover")
    assert agent.status == "in_sync"
    for groups in (["from"], ["to"], ["empty"], []):
        for group in ("from", "to", "empty"):
            method = "PUT" if group in groups else "DELETE"
            management.request(method, f"/groups/{group}/agents/{agent.id}")
        order = agent.next_order()
        assert order["action"]["args"] == {"groups": groups}
        assert agent.status == ("in_sync" if groups == [] else "pending")
        agent.fetch(*(f"{group}.yml" for group in groups))
        agent.report(order)
        assert agent.status == "in_sync"


def test_a_request_for_the_head_of_a_file_is_no_fetch(server: Server, management: httpx.Client) -> None:
    make_groups(management, "headed")
    agent = RealAgent(server, management, "headed", "headed")
    put(management, "headed", "headed.yml", "a: 2")
    order = agent.next_order()
    assert agent.client.head("/files?file_name=headed.yml").status_code == 200
    agent.report(order)
    assert (agent.status, agent.drift["fetched_at"]) == ("pending", None)


def test_parallel_fetches_are_all_counted(server: Server, management: httpx.Client) -> None:
    groups = [f"parallel-{number}" for number in range(6)]
    make_groups(management, *groups)
    agent = RealAgent(server, management, "parallel", *groups)
    put(management, groups[0], f"{groups[0]}.yml", "a: 2")
    order = agent.next_order()
    threads = [threading.Thread(target=agent.fetch, args=(f"{group}.yml",)) for group in groups[:3]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    agent.fetch(*(f"{group}.yml" for group in groups[3:]))
    agent.report(order)
    assert agent.status == "in_sync"


def test_a_repeated_fetch_writes_nothing(server: Server, management: httpx.Client, query: Query) -> None:
    make_groups(management, "again")
    agent = RealAgent(server, management, "again", "again")
    agent.fetch("again.yml", "merged.yml")
    row = query("SELECT xmin::text, * FROM agent_configurations WHERE agent_id = $1", agent.id)
    for _ in range(3):
        agent.fetch("again.yml", "merged.yml")
    assert query("SELECT xmin::text, * FROM agent_configurations WHERE agent_id = $1", agent.id) == row


def test_the_hash_that_an_agent_reports_counts_before_its_fetches(server: Server, management: httpx.Client) -> None:
    make_groups(management, "exact")
    agent = RealAgent(server, management, "exact", "exact")
    assert agent.client.put("/configuration", json={"sha256": "0" * 64}).status_code == 204
    put(management, "exact", "exact.yml", "a: 2")
    agent.apply("exact.yml")
    assert (agent.status, agent.drift["reported"]) == ("pending", "0" * 64)
    assert agent.client.put("/configuration", json={"sha256": agent.drift["wanted"]}).status_code == 204
    assert agent.status == "in_sync"


def test_a_group_counts_its_agents_by_status_and_lists_them(server: Server, management: httpx.Client) -> None:
    make_groups(management, "counted", "second")
    management.post("/groups", json={"name": "bare"})
    agents = [
        RealAgent(server, management, f"counted-{number}", "counted", *(["second"] if number % 2 else []))
        for number in range(4)
    ]
    assert counts(management, "counted") == (4, 0, 4, 0)
    put(management, "counted", "counted.yml", "a: 2")
    agents[0].apply("counted.yml")
    agents[1].apply("counted.yml", "second.yml")
    order = agents[2].next_order()
    agents[2].report(order, code=1)
    assert counts(management, "counted") == (4, 2, 1, 1)
    assert counts(management, "second") == (2, 1, 1, 0)
    assert counts(management, "bare") == (0, 0, 0, 0)
    listed = listing(management, "counted")
    assert [listed[str(agent.id)] for agent in agents] == ["in_sync", "in_sync", "failed", "pending"]
    assert listing(management, "counted", status="failed") == {str(agents[2].id): "failed"}
    first = management.get("/groups/counted/configuration/agents?limit=3").json()
    second = management.get(f"/groups/counted/configuration/agents?after={first['next']}").json()
    assert [len(first["items"]), len(second["items"]), second["next"]] == [3, 1, None]


def listing(management: httpx.Client, group: str, **query: str) -> dict[str, str]:
    items = management.get(f"/groups/{group}/configuration/agents", params=query).json()["items"]
    return {item["agent_id"]: item["status"] for item in items}


async def add_long_group(management: httpx.Client, engine: Engine, group: str) -> None:
    """Add twelve agents, of which only the last one is in sync."""
    make_groups(management, group)
    statement = text("""
        WITH new AS (
            INSERT INTO agents (id, name, key_hash, configuration)
            SELECT uuid7(), :group || '-' || number, '', CASE WHEN number = 12 THEN :sha256 END
            FROM generate_series(1, 12) AS number RETURNING id)
        INSERT INTO group_members (agent_id, group_name) SELECT id, :group FROM new""")
    line = f"{group}/{group}.yml {hashlib.sha256(f'{group}: 1'.encode()).hexdigest()}\n"
    async with engine.begin() as connection:
        await connection.execute(statement, {"group": group, "sha256": hashlib.sha256(line.encode()).hexdigest()})


@pytest.mark.anyio
async def test_a_page_of_all_agents_in_sync_examines_a_bounded_number_of_agents(
    management: httpx.Client, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SCANNED_MAXIMUM", 5)
    await add_long_group(management, engine, "fleet")
    agent_filter, pages, after = AgentFilter(group="fleet", in_sync=True), [], None
    async with engine.connect() as connection:
        while not pages or after is not None:
            page = await store.list_agents(connection, agent_filter, Visibility(), after, 3)
            pages.append([agent.name for agent in page.items])
            after = page.next and UUID(page.next)
    assert pages == [[], [], ["fleet-12"]]


@pytest.mark.anyio
async def test_a_page_examines_a_bounded_number_of_agents(
    management: httpx.Client, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift, "SCANNED_MAXIMUM", 5)
    await add_long_group(management, engine, "long")
    files, pages, after = Files(engine, asyncio.Event()), [], None
    while not pages or after is not None:
        page = await files.list_drift("long", DriftFilter("in_sync"), after, 3)
        pages.append([agent.name for agent in page.items])
        after = page.next and UUID(page.next)
    assert pages == [[], [], ["long-12"]]
    pending = await files.list_drift("long", DriftFilter("pending"), None, 3)
    assert [len(pending.items), pending.next] == [3, str(pending.items[-1].agent_id)]


def test_agents_without_files_are_in_sync(server: Server, management: httpx.Client) -> None:
    management.post("/groups", json={"name": "fileless-group"})
    RealAgent(server, management, "without files", "fileless-group")
    assert counts(management, "fileless-group") == (1, 1, 0, 0)


@pytest.mark.parametrize("path", ["configuration", "configuration/agents"])
def test_the_drift_of_an_unknown_group_is_not_found(management: httpx.Client, path: str) -> None:
    assert management.get(f"/groups/nowhere/{path}").status_code == 404


def test_a_deleted_agent_leaves_no_record(server: Server, management: httpx.Client, query: Query) -> None:
    make_groups(management, "gone")
    agent = RealAgent(server, management, "gone", "gone")
    agent.fetch("gone.yml")
    management.delete(f"/agents/{agent.id}")
    found = query("SELECT FROM agent_configurations WHERE agent_id = $1", UUID(str(agent.id)))
    assert found == []
