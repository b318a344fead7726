"""`docs/operations/sharding.md` tells the truth: which hot statements name the agents whose rows they touch."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from support.databases import PATIENT
from support.statements import DISTRIBUTED, listening, touched, unconstrained
from support.waiting import until

from bench.growth_orders import GROUP
from bench.plans import Statement, hot_statements
from comms_api.agents.store import update_agent
from comms_api.app.node import Node, open_node
from comms_api.cluster.model import NodeAddress, NodeProcess
from comms_api.commands.expansion import expand_and_claim, expansion_of
from comms_api.commands.model import NewCommand
from comms_api.database.connect import open_engine
from comms_api.database.schema import metadata
from comms_api.database.uuid7 import uuid7_at, uuid7_time
from comms_api.events.copy_format import COLUMNS
from comms_api.events.model import EventRun, StatelessBatch
from comms_api.events.store import insert_quarantined
from comms_api.files.announcements import check_announcements, take_changes, track_orders, without_pending_fetch
from comms_api.files.announcer import ANNOUNCER
from comms_api.files.store import find_hashes, find_own_version, list_own_hashes, list_own_yaml
from comms_api.orders.archive import archive_orders, delete_commands
from comms_api.orders.leases import claim_orders, extend_leases, release_orders
from comms_api.orders.model import Claimed, CommandTarget
from comms_api.orders.transitions import expire_early
from comms_api.protocol import Action, Credentials, OrderResult, Result
from comms_api.settings import Settings
from comms_api.states.model import StateChange, StatefulBatch
from comms_api.states.store import advance_sequences, delete_states, find_sizes, find_states
from comms_api.tokens.issuer import AGENTS
from comms_api.tokens.secret import Secret

pytestmark = pytest.mark.anyio

PAGE = Path("docs/operations/sharding.md")
WITHOUT_AGENTS = {
    "archive",
    "claim",
    "delete-commands",
    "expand",
    "expire",
    "extend",
    "login",
    "release",
    "take-changes",
    "check-announcements",
    "expire-early",
    "track-orders",
}
"""The hot statements that touch a distributed table and do not say whose rows they want."""

KEY = "k" * 32
SECRET = Secret(b"s" * 32)
EXECUTED = {"agents", "orders", "finished_orders", "states", "group_members"}
DUTIES_SECONDS = 2.5


@pytest.fixture
def own_url(new_database: Callable[[], str]) -> str:
    """A database that nobody else writes to."""
    return new_database()


@pytest.fixture
async def own_engine(own_url: str) -> AsyncIterator[AsyncEngine]:
    opened = open_engine(own_url, PATIENT)
    yield opened
    await opened.dispose()


async def enroll(connection: AsyncConnection, count: int) -> list[UUID]:
    ids = [uuid7_at(time.time()) for _ in range(count)]
    await connection.execute(text("INSERT INTO groups (name) VALUES (:name)"), {"name": GROUP})
    for statement in (
        "INSERT INTO agents (id, name, key_hash) SELECT id, id::text, :hash FROM unnest(CAST(:ids AS uuid[])) AS id",
        "INSERT INTO group_members SELECT :group, id FROM unnest(CAST(:ids AS uuid[])) AS id",
    ):
        values = {"ids": ids, "hash": SECRET.hash_key(KEY), "group": GROUP}
        named = {name: value for name, value in values.items() if f":{name}" in statement}
        await connection.execute(text(statement), named)
    return ids


def other_statements(agents: Sequence[UUID], claimed: Sequence[Claimed]) -> dict[str, Statement]:
    """Return the hot statements that have no plan in docs/performance/plans/."""
    agent = agents[0]
    owned = [(UUID(claim.order.order_id), claim.agent_id) for claim in claimed]
    quarantined = (agent, agent, "", b"", 0)
    today = uuid7_time(agent).date()
    command = NewCommand("Engine", CommandTarget("agent", str(agent)), Action("restart"), 60)
    expansion = expansion_of(agent, "admin", command, 60)
    return {
        "expand-and-claim": lambda connection: expand_and_claim(connection, expansion, 1, 60),
        "release": lambda connection: release_orders(connection, claimed),
        "extend": lambda connection: extend_leases(connection, owned, 60),
        "find-few-states": lambda connection: find_states(connection, [(str(agent), "fim", "file", "1")], 1),
        "measure-states": lambda connection: find_sizes(connection, [(str(agent), "fim", "file", "1")]),
        "delete-states": lambda connection: delete_states(connection, [(str(agent), "fim", "file", "1")]),
        "advance-sequences": lambda connection: advance_sequences(connection, {str(agent): 1}),
        "quarantine": lambda connection: insert_quarantined(connection, [quarantined]),
        "update-agent": lambda connection: update_agent(connection, agent, {"configuration": "0"}),
        "own-file": lambda connection: find_own_version(connection, agent, "agent.yml"),
        "own-files": lambda connection: list_own_yaml(connection, agent),
        "own-hashes": lambda connection: list_own_hashes(connection, agent),
        "hashes": lambda connection: find_hashes(connection, agent),
        "take-changes": lambda connection: take_changes(connection, 0, 10),
        "track-orders": lambda connection: track_orders(connection, agent, has_moved=False),
        "check-announcements": lambda connection: check_announcements(connection, 10, 10),
        "expire-early": lambda connection: expire_early(connection, [agent]),
        "without-pending-fetch": lambda connection: without_pending_fetch(connection, agents, ANNOUNCER),
        "archive": lambda connection: archive_orders(connection, today, 10),
        "delete-commands": lambda connection: delete_commands(connection, 30, 10),
    }


async def executed(engine: AsyncEngine) -> dict[str, list[str]]:
    """Run each hot statement by its store's function, and return what was executed."""
    said = {"store-events": [f"INSERT INTO events ({', '.join(COLUMNS)})"]}  # a COPY, which no cursor executes
    async with engine.connect() as connection:
        agents = await enroll(connection, 3)
        with listening(engine) as heard:
            await hot_statements(agents, [])["expand"](connection)
            claimed = await claim_orders(connection, agents, 60)
            assert len(claimed) == len(agents)
            owned = [(UUID(claim.order.order_id), claim.agent_id) for claim in claimed]
            for name, run in {**other_statements(agents, claimed), **hot_statements(agents, owned)}.items():
                heard.clear()
                await run(connection)
                said[name] = list(heard)
        await connection.rollback()
    return said


def described() -> dict[str, str]:
    """Return the kind of each statement in the page's table."""
    rows = re.findall(r"^\| `([a-z-]+)` \| ([a-z' -]+?) \|", PAGE.read_text(), re.MULTILINE)
    return dict(rows)


async def test_every_hot_statement_names_its_agents_but_those_that_the_page_lists(engine: AsyncEngine) -> None:
    said = await executed(engine)
    without = {name for name, statements in said.items() if any(map(unconstrained, statements))}
    assert without == WITHOUT_AGENTS
    kinds = described()
    assert kinds.keys() == said.keys()
    assert {name for name, kind in kinds.items() if kind == "neither"} == WITHOUT_AGENTS
    assert set(kinds.values()) == {"one agent's shard", "bounded fan-out", "neither"}


async def test_a_node_executes_no_other_statement_on_the_agents_tables(own_engine: AsyncEngine) -> None:
    known = {statement for statements in (await executed(own_engine)).values() for statement in statements}
    async with own_engine.begin() as connection:
        [agent, *_] = await enroll(connection, 3)
    address = NodeAddress("one", "https://one:1", "https://one:2", "boot")
    with listening(own_engine) as heard:
        async with open_node(own_engine, SECRET, Settings(), NodeProcess(address)) as node:
            heard.clear()
            async with own_engine.begin() as connection:
                await hot_statements([agent], [])["expand"](connection)
            await live(node, agent)
            await asyncio.sleep(DUTIES_SECONDS)
            await until(lambda: {table for statement in heard for table in touched(statement)} >= EXECUTED)
    strange = {statement for statement in heard if touched(statement)} - known
    assert not strange


async def live(node: Node, agent: UUID) -> None:
    """Do what an agent does: log in, send events and states, take an order and report it, fetch its files."""
    token = await node.login.log_in(Credentials(str(agent), KEY), None)
    await node.events.append(agent, StatelessBatch([EventRun("logs", "file", [b"{}"])], []))
    changes = [StateChange(0, (str(agent), "fim", "file", "1"), "create", b"{}", sequence=1)]
    await node.states.change(agent, StatefulBatch(changes, []))
    changes = [StateChange(0, (str(agent), "fim", "file", "1"), "delete")]
    await node.states.change(agent, StatefulBatch(changes, []))
    await node.files.configuration(agent)
    await node.files.read(await node.files.find_merged(agent), node.agent_answers.memory)
    await node.files.report(agent, "0")
    with node.dispatcher.hold(agent, node.tokens.verify(token, AGENTS), 10) as answer:
        [order] = await answer
    for code in (2, 0):
        await node.reports.report(agent, [OrderResult(order.order_id, Result(code))])


def test_the_page_names_each_distributed_table_and_its_column() -> None:
    page = PAGE.read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", page, re.MULTILINE)
    assert dict(rows) == DISTRIBUTED
    assert all(f"`{name}`" in page for name in metadata.tables)


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT 1 FROM orders WHERE agent_id = $1", set()),
        ("SELECT 1 FROM orders WHERE agent_id = ANY($1)", set()),
        ("SELECT 1 FROM orders JOIN unnest($1, $2) AS o (order_id, agent_id) USING (order_id, agent_id)", set()),
        ("DELETE FROM states WHERE (agent_id, id) IN (SELECT * FROM unnest($1, $2))", set()),
        ("INSERT INTO events (id, agent_id) VALUES ($1, $2)", set()),
        ("INSERT INTO events (id) VALUES ($1)", {"events"}),
        ("SELECT agent_id FROM orders WHERE order_id = $1", {"orders"}),
        ("SELECT 1 FROM orders WHERE agent_id = $1 OR order_id = $2", {"orders"}),
        ("DELETE FROM orders WHERE agent_id IN (SELECT agent_id FROM group_members)", {"orders", "group_members"}),
        ("SELECT 1 FROM agents WHERE id = $1 UNION ALL SELECT 1 FROM agents", {"agents"}),
        ("SELECT 1 FROM orders -- WHERE agent_id = $1", {"orders"}),
        ("SELECT 1 FROM commands WHERE request_id = $1", set()),
    ],
)
def test_a_statement_is_judged_by_each_of_its_queries(statement: str, expected: set[str]) -> None:
    assert unconstrained(statement) == expected
