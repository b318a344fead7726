"""A selection holds exact agents; an action on it changes exactly these, and is one entry of the audit trail."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest
from sqlalchemy import text
from support.batches import command
from support.databases import PATIENT, add_agents, complete
from support.server import Server
from support.waiting import wait_until

from comms_api.agents.model import AgentFilter, Visibility
from comms_api.database.actor import Actor, acting_as
from comms_api.database.connect import open_engine
from comms_api.database.connection import Engine
from comms_api.database.listener import Notifier
from comms_api.database.uuid7 import DatabaseClock
from comms_api.errors import Conflict, Invalid, NotFound
from comms_api.groups.service import Groups
from comms_api.revocations.service import Revocations
from comms_api.selections import service, store
from comms_api.selections.model import SELECTIONS_MAXIMUM, Action, Selection
from comms_api.selections.service import Selections

EVERYONE = (AgentFilter(), Visibility())


async def open_selections(engine: Engine) -> Selections:
    clock = DatabaseClock()
    async with engine.begin() as connection:
        await clock.synchronise(connection)
    return Selections(engine, clock, Revocations(engine, Notifier(engine, {})), asyncio.Event())


@pytest.fixture
async def user(engine: Engine) -> AsyncIterator[str]:
    """A user; the test acts as this user."""
    name = f"user-{uuid4().hex}"
    async with engine.begin() as connection:
        add = text("INSERT INTO users (name, password_hash, role) VALUES (:name, '', 'operator')")
        await connection.execute(add, {"name": name})
    with acting_as(Actor(name, "192.0.2.1")):
        yield name
    async with engine.begin() as connection:  # a server creates the administrator only if there is no user
        await connection.execute(text("DELETE FROM users WHERE name = :name"), {"name": name})


@pytest.fixture
async def selections(engine: Engine) -> Selections:
    return await open_selections(engine)


async def blocked(engine: Engine, ids: list[UUID]) -> int:
    async with engine.connect() as connection:
        statement = text("SELECT count(*) FROM agents WHERE is_blocked AND id = ANY(CAST(:ids AS uuid[]))")
        count: int = await connection.scalar(statement, {"ids": ids})
    return count


async def entries_of(engine: Engine, selection: Selection) -> list[dict[str, object]]:
    statement = text("SELECT actor, address, after FROM audit WHERE subject = 'selections' AND key = :key")
    async with engine.connect() as connection:
        rows = await connection.execute(statement, {"key": str(selection.id)})
    return [{"actor": row.actor, "address": row.address, **msgspec.json.decode(row.after)} for row in rows]


@pytest.mark.anyio
async def test_a_selection_keeps_its_agents_when_others_match_later(
    engine: Engine, selections: Selections, user: str
) -> None:
    ids = await add_agents(engine, 3)
    selection = await selections.select(user, ids[:2])
    assert selection.agents == 2
    matching = await selections.select_matching(user, "name=x", AgentFilter(name=str(ids[2])), Visibility())
    assert (matching.agents, matching.query) == (1, "name=x")
    everyone = await selections.select_matching(user, "", *EVERYONE)
    later = await add_agents(engine, 2)
    page = await selections.list_agents(everyone, None, everyone.agents + 1)
    assert len(page.items) == everyone.agents
    assert not {agent.id for agent in page.items} & set(later)


@pytest.mark.anyio
async def test_an_action_continues_in_steps_and_is_one_entry_of_the_audit_trail(
    engine: Engine, selections: Selections, user: str
) -> None:
    ids = await add_agents(engine, 2 * service.AGENTS_PER_STEP + 1)
    others = await add_agents(engine, 1)
    selection = await selections.select(user, ids)
    await selections.begin(selection.id, user, "block")
    await selections.perform_step()  # this node dies after the first step
    half = await selections.get(selection.id, user)
    assert (half.examined, half.is_running) == (service.AGENTS_PER_STEP, True)
    with pytest.raises(Conflict, match="under way"):
        await selections.begin(selection.id, user, "unblock")
    await (await open_selections(engine)).continue_actions()
    ended = await selections.get(selection.id, user)
    assert (ended.examined, ended.changed, ended.is_running) == (len(ids), len(ids), False)
    assert (await blocked(engine, ids), await blocked(engine, others)) == (len(ids), 0)
    entry = {"actor": user, "address": "192.0.2.1", "action": "block", "agents": len(ids)}
    assert await entries_of(engine, selection) == [entry]
    async with engine.connect() as connection:
        updates = text("SELECT count(*) FROM audit WHERE subject = 'agents' AND key = :key AND operation = 'update'")
        assert await connection.scalar(updates, {"key": str(ids[0])}) == 0
        revoked = text("SELECT count(*) FROM revocations WHERE subject = ANY(CAST(:ids AS text[]))")
        assert await connection.scalar(revoked, {"ids": list(map(str, ids))}) == len(ids)
        events = text("SELECT count(*) FROM outbox WHERE kind = 'blocked' AND agent_id = ANY(CAST(:ids AS uuid[]))")
        assert await connection.scalar(events, {"ids": ids}) == len(ids)


@pytest.mark.anyio
async def test_agents_join_and_leave_a_group(engine: Engine, selections: Selections, user: str) -> None:
    ids = await add_agents(engine, 4)
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO groups (name) VALUES ('chosen')"))
    await Groups(engine, asyncio.Event()).add("chosen", [str(ids[0])])
    selection = await selections.select(user, ids)
    steps: Sequence[tuple[Action, int]] = (("join", 3), ("join", 0), ("leave", 4))
    for action, changed in steps:
        await selections.begin(selection.id, user, action, "chosen")
        await selections.continue_actions()
        ended = await selections.get(selection.id, user)
        assert (ended.examined, ended.changed, ended.group) == (4, changed, "chosen")
    with pytest.raises(NotFound, match="no group 'absent'"):
        await selections.begin(selection.id, user, "join", "absent")
    await selections.begin(selection.id, user, "join", "chosen")
    await Groups(engine, asyncio.Event()).delete("chosen")
    await selections.continue_actions()
    ended = await selections.get(selection.id, user)
    assert ended.fault == "The group 'chosen' has been deleted."


@pytest.mark.anyio
async def test_selections_are_private_few_and_expire(engine: Engine, selections: Selections, user: str) -> None:
    ids = await add_agents(engine, 1)
    first = await selections.select(user, ids)
    for _ in range(SELECTIONS_MAXIMUM):
        last = await selections.select(user, ids)
    with pytest.raises(NotFound):
        await selections.get(first.id, user)
    with pytest.raises(NotFound):
        await selections.get(last.id, "admin")
    with pytest.raises(Invalid, match="No agent"):
        await selections.select(user, [uuid4()])
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE selections SET expires_at = now()"))
    with pytest.raises(NotFound, match="expired"):
        await selections.get(last.id, user)
    async with engine.begin() as connection:
        await store.delete_expired(connection)
        assert await connection.scalar(text("SELECT count(*) FROM selections")) == 0


@pytest.mark.anyio
async def test_more_than_the_maximum_is_refused(
    engine: Engine, selections: Selections, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "AGENTS_MAXIMUM", 2)
    await add_agents(engine, 3)
    with pytest.raises(Invalid, match="More than"):
        await selections.select_matching(user, "", *EVERYONE)


def select(database_url: str, *ids: UUID, action: Action | None = None) -> str:
    """Select agents as the administrator, and perform an action on them; return the id of the selection."""

    async def run() -> str:
        engine = open_engine(database_url, PATIENT)
        selections = await open_selections(engine)
        selection = await selections.select("admin", ids)
        if action is not None:
            await selections.begin(selection.id, "admin", action)
            await selections.continue_actions()
        await engine.dispose()
        return str(selection.id)

    return complete(run())


def submit(client: httpx.Client, selection_id: object, **changes: object) -> httpx.Response:
    target = {"type": "selection", "id": selection_id}
    return client.post("/commands", json=command("", **changes) | {"target": target})


def test_a_command_to_a_selection_reaches_exactly_its_agents(
    database_url: str, server: Server, management: httpx.Client
) -> None:
    chosen, deleted = server.enroll(management, "chosen"), server.enroll(management, "deleted")
    selection_id = select(database_url, chosen, deleted)
    server.enroll(management, "later")
    management.delete(f"/agents/{deleted}")
    answer = submit(management, selection_id)
    assert answer.status_code == 201, answer.text
    [submitted] = answer.json()["commands"]
    assert submitted["orders"] == 1
    [order] = server.log_in(chosen).get("/commands?wait=10").json()["commands"]
    assert order["target"] == {"id": str(chosen), "type": "agent"}
    shown = management.get(f"/commands/{submitted['request_id']}").json()
    assert shown["command"]["target"] == {"type": "selection", "id": selection_id}
    [skipping] = submit(management, selection_id, offline="skip").json()["commands"]
    assert skipping["orders"] + skipping["skipped"] == 1


def test_a_faulty_selection_is_refused(database_url: str, server: Server, management: httpx.Client) -> None:
    selection_id = select(database_url, server.enroll(management, "selected"))
    operator = server.user(management, "operator", "operator")
    continuous = {"continuous": True, "until": (datetime.now(UTC) + timedelta(days=1)).isoformat()}
    for answer, fault in (
        (submit(operator, selection_id, user="operator"), "has no selection"),
        (submit(management, str(uuid4())), "may have expired"),
        (submit(management, "web"), "the id of one selection"),
        (submit(management, [selection_id] * 2), "the id of one selection"),
        (submit(management, selection_id, **continuous), "target.type"),
    ):
        assert answer.status_code == 422, answer.text
        assert fault in answer.json()["detail"], answer.text


def test_a_block_revokes_tokens(database_url: str, server: Server, management: httpx.Client) -> None:
    agent_id = server.enroll(management, "to block")
    client = server.log_in(agent_id)
    select(database_url, agent_id, action="block")
    wait_until(lambda: client.get("/commands?wait=0").status_code == 401)
