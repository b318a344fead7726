"""Rules decide whether an agent replaces another of its name or id; the tokens of the replaced agent end everywhere."""

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text
from support.server import KEY
from support.waiting import PATIENCE

from comms_api.agents.replacement import ReplacementRule
from comms_api.agents.service import Agents
from comms_api.database.actor import Actor, acting_as
from comms_api.database.connection import Engine
from comms_api.database.listener import Notifier
from comms_api.database.uuid7 import DatabaseClock
from comms_api.errors import Conflict
from comms_api.protocol import Enrollment
from comms_api.revocations.service import REVOCATIONS_CHANNEL, Revocations
from comms_api.revocations.store import list_revocations
from comms_api.settings import Settings
from comms_api.tokens.secret import Secret

pytestmark = pytest.mark.anyio


@pytest.fixture
def database_url(new_database: Callable[[], str]) -> str:
    """A separate database for each test."""
    return new_database()


WAITING = text("SELECT count(*) FROM pg_locks WHERE NOT granted")


def agents_of(engine: Engine, settings: Settings, revocations: Revocations) -> Agents:
    return Agents(engine, Secret(b"s" * 32), DatabaseClock(), revocations, settings)


async def test_a_replacement_is_announced_after_its_commit(engine: Engine) -> None:
    announced: list[object] = []
    revocations = Revocations(engine, Notifier(engine, {REVOCATIONS_CHANNEL: announced.append}))
    agents = agents_of(engine, Settings(reenroll_after_days=1), revocations)
    old = await agents.enroll(Enrollment(name="host-7", key=KEY), None)
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE agents SET created_at = now() - interval '2 days'"))
        await connection.execute(text("INSERT INTO groups (name) VALUES ('web')"))
    async with engine.begin() as connection:
        await connection.execute(text("SELECT FROM groups FOR UPDATE"))  # the enrollment waits for it at its end
        enrollment = Enrollment(name="host-7", key=KEY[::-1], groups=("web",))
        enrolling = asyncio.create_task(agents.enroll(enrollment, None))
        async with asyncio.timeout(PATIENCE):
            while not await connection.scalar(WAITING):  # noqa: ASYNC110 - locks have no events of this loop
                await asyncio.sleep(0.01)
        assert announced == []
    await enrolling
    assert len(announced) == 1
    async with engine.connect() as connection:
        assert await connection.scalars(text("SELECT agent_id FROM deleted_agents")) == [old.id]
    async with engine.connect() as connection:
        assert str(old.id) in await list_revocations(connection, 3_600)


RULES: list[tuple[dict[str, Any], dict[str, float | None], bool]] = [
    ({}, {"enrolled": 900, "seen": 900}, False),
    ({"reenroll_after_days": 1}, {"enrolled": 9, "seen": 2}, True),
    ({"reenroll_after_days": 1}, {"enrolled": 2, "seen": None}, True),
    ({"reenroll_after_days": 1}, {"enrolled": 9, "seen": 0.5}, False),
    ({"reenroll_after_days": 1, "reenroll_minimum_age_days": 30}, {"enrolled": 9, "seen": 2}, False),
    ({"reenroll_after_days": 1, "reenroll_minimum_age_days": 30}, {"enrolled": 31, "seen": 2}, True),
    ({"reenroll_on_key_mismatch": True}, {"enrolled": 9, "seen": 0.5}, True),
    ({"reenroll_on_key_mismatch": True}, {"enrolled": 0, "seen": None}, True),
    ({"reenroll_on_key_mismatch": True}, {"enrolled": 9, "seen": 0}, False),
    ({"reenroll_on_key_mismatch": True, "reenroll_minimum_age_days": 30}, {"enrolled": 9, "seen": 0.5}, False),
]
_HOLD = text("""
    UPDATE agents SET node = 'here', created_at = now() - make_interval(days => 1) * CAST(:enrolled AS float8),
        last_seen_at = now() - make_interval(days => 1) * CAST(:seen AS float8)
    WHERE name = 'host-7'""")
_NODE = text("""
    INSERT INTO nodes (id, name, worker, agent_url, management_url, boot_id, version, started_at, seen_at)
    VALUES (uuid7(), 'here', 0, '', '', '', '', now(), now() + interval '1 h')""")


@pytest.mark.parametrize("is_authorised", [True, False], ids=["operator", "key request"])
@pytest.mark.parametrize(("rules", "days", "may_replace"), RULES)
async def test_an_agent_is_replaced_only_if_the_rules_allow_it(
    engine: Engine, rules: dict[str, Any], days: dict[str, float | None], *, may_replace: bool, is_authorised: bool
) -> None:
    may_replace = may_replace and (is_authorised or "reenroll_on_key_mismatch" not in rules)
    rule = ReplacementRule.of(Settings(**rules))
    agents = agents_of(engine, Settings(), Revocations(engine, Notifier(engine, {})))
    old = await agents.enroll(Enrollment(name="host-7", key=KEY), None)
    with nullcontext() if may_replace else pytest.raises(Conflict, match="'host-7' exists"):
        async with engine.begin() as connection:
            await connection.execute(_NODE)
            await connection.execute(_HOLD, days)
            replaced = await rule.delete_holders(connection, uuid4(), "host-7", is_authorised=is_authorised)
            assert replaced == [str(old.id)]


async def test_an_agent_that_lost_its_key_enrolls_again_and_the_audit_trail_shows_it(engine: Engine) -> None:
    revocations = Revocations(engine, Notifier(engine, {}))
    agents = agents_of(engine, Settings(reenroll_on_key_mismatch=True), revocations)
    old = await agents.enroll(Enrollment(name="host-8", key=KEY), None)
    with acting_as(Actor("olga", "192.0.2.1")):
        again = await agents.enroll(Enrollment(name="host-8", key=KEY[::-1], id=old.id), "192.0.2.1")
    assert again.id == old.id
    async with engine.connect() as connection:
        statement = text("SELECT operation FROM audit WHERE key = :id AND actor = 'olga' ORDER BY id")
        assert await connection.scalars(statement, {"id": str(old.id)}) == ["delete", "insert"]
