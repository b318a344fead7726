"""Submitting: one statement if one will do, nothing left behind by what is refused, nobody told before the commit."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine
from support.server import new_id

from comms_api.commands.leases import claim_orders
from comms_api.commands.model import CommandTarget, NewCommand
from comms_api.commands.service import ORDERS_CHANNEL, Commands
from comms_api.database.actor import Actor, acting_as
from comms_api.database.direct import direct
from comms_api.database.listener import Notifier
from comms_api.database.uuid7 import DatabaseClock
from comms_api.errors import Invalid
from comms_api.protocol import Action
from comms_api.settings import Settings

pytestmark = pytest.mark.anyio


async def add_agents(engine: AsyncEngine, count: int) -> list[UUID]:
    ids = [new_id() for _ in range(count)]
    async with engine.begin() as connection:
        await connection.execute(
            text("INSERT INTO agents (id, name, key_hash) SELECT id, id, '' FROM unnest(CAST(:ids AS uuid[])) AS id"),
            {"ids": ids},
        )
    return ids


def commands_of(engine: AsyncEngine) -> Commands:
    return Commands(engine, DatabaseClock(), Notifier(engine, {}), Settings())


def restart(*names: object) -> NewCommand:
    wanted = [str(name) for name in names]
    return NewCommand("Engine", CommandTarget("agent", wanted if len(wanted) > 1 else wanted[0]), Action("restart"), 60)


@contextmanager
def sent_to_postgresql(engine: AsyncEngine) -> Iterator[list[str]]:
    """Yield the first word of whatever is sent, BEGIN and COMMIT included."""
    sent: list[str] = []

    def log_control(query: Any) -> None:
        sent.append(query.query.split()[0].rstrip(";"))

    def log_statement(*arguments: Any) -> None:
        sent.append(arguments[2].split()[0])

    def taken(connection: Any, _record: object, _proxy: object) -> None:
        connection.driver_connection.add_query_logger(log_control)

    event.listen(engine.sync_engine, "before_cursor_execute", log_statement)
    event.listen(engine.sync_engine, "checkout", taken)
    yield sent
    event.remove(engine.sync_engine, "checkout", taken)
    event.remove(engine.sync_engine, "before_cursor_execute", log_statement)


async def test_a_command_to_one_agent_is_one_round_trip_and_knows_its_actor(engine: AsyncEngine) -> None:
    [agent_id] = await add_agents(engine, 1)
    commands = commands_of(engine)
    with acting_as(Actor("olga", "192.0.2.1")), sent_to_postgresql(engine) as sent:
        [submitted] = await commands.submit("olga", [restart(agent_id)])
        assert sent == ["WITH"]
        async with direct(engine) as connection:  # the actor is not told in a statement before, either
            told = text("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE 'SELECT set_config%'")
            assert await connection.execute(told, {}) == [(0,)]
        await asyncio.sleep(0)  # asyncpg tells of a statement a little later
        sent.clear()
        await commands.submit("olga", [restart(agent_id), restart(agent_id)])
        assert sent == ["BEGIN", "WITH", "WITH", "COMMIT"]
    async with engine.connect() as connection:
        told = text("SELECT actor, address, CAST(after ->> 'orders' AS int) FROM audit WHERE key = :key")
        assert (await connection.execute(told, {"key": str(submitted.request_id)})).one() == ("olga", "192.0.2.1", 1)
        # What the statement said of its actor ended with it.
        assert not await connection.scalar(text("SELECT current_setting('comms_api.actor', true)"))


@pytest.mark.parametrize("known", [0, 1, 2])
async def test_a_command_to_a_stranger_leaves_nothing_behind(engine: AsyncEngine, known: int) -> None:
    agents, stranger = await add_agents(engine, known), new_id()
    with pytest.raises(Invalid, match=f"there is no agent '{stranger}'; nothing was submitted"):
        await commands_of(engine).submit("olga", [restart(*agents, stranger)])
    async with engine.connect() as connection:
        left = text("""SELECT (SELECT count(*) FROM orders WHERE agent_id = ANY(:ids)),
            (SELECT count(*) FROM commands WHERE :name = ANY(target_ids))""")
        assert (await connection.execute(left, {"ids": [*agents, stranger], "name": str(stranger)})).one() == (0, 0)


async def test_an_agent_that_is_named_twice_is_no_stranger_and_gets_one_order(engine: AsyncEngine) -> None:
    [agent_id] = await add_agents(engine, 1)
    [submitted] = await commands_of(engine).submit("olga", [restart(agent_id, str(agent_id).upper())])
    assert submitted.orders == 1


async def test_nobody_is_told_of_orders_before_their_commit(engine: AsyncEngine) -> None:
    under_way: list[int] = []
    notifier = Notifier(engine, {ORDERS_CHANNEL: lambda _: under_way.append(engine.pool.checkedout())})  # type: ignore[attr-defined] # of its pool
    commands = Commands(engine, DatabaseClock(), notifier, Settings())
    agents = await add_agents(engine, 2)
    [of_both], [of_one] = [await commands.submit("olga", [restart(*names)]) for names in (agents, agents[:1])]
    async with engine.begin() as connection:
        await claim_orders(connection, agents, 60)
    assert (await commands.cancel(of_both.request_id, "olga")).told == 2
    await commands.cancel_order(of_one.order_ids[0], "olga")
    assert under_way == [0, 0, 0, 0]
