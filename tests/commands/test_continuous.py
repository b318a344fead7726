"""Agents that match a continuous command later get its order, once, whatever fails or runs at the same time."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from sqlalchemy import text
from support.locks import until_blocked
from support.orders import claim, make_submissions

from comms_api.commands import continuous
from comms_api.commands.continuous import ContinuousCommands, forget_recipients
from comms_api.commands.model import NewCommand
from comms_api.commands.service import Commands, Rollouts
from comms_api.commands.submission.submissions import Submissions
from comms_api.database.connection import Connection, Engine
from comms_api.database.listener import Notifier
from comms_api.database.uuid7 import DatabaseClock, uuid7_at
from comms_api.errors import Conflict
from comms_api.orders.counts import count_orders
from comms_api.orders.model import CommandTarget
from comms_api.protocol import Action
from comms_api.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def submissions(engine: Engine) -> Submissions:
    return make_submissions(engine, Notifier(engine, {}))


@pytest.fixture
def commands(engine: Engine) -> Commands:
    return Commands(engine, DatabaseClock(), Notifier(engine, {}), Settings())


@pytest.fixture
def duty(engine: Engine) -> ContinuousCommands:
    return ContinuousCommands(engine, Notifier(engine, {}), Settings())


async def make_group(engine: Engine) -> str:
    group = uuid7_at(1_780_000_000).hex
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO groups (name) VALUES (:group)"), {"group": group})
    return group


async def enroll(connection: Connection, groups: list[str] | None = None) -> UUID:
    agent_id = uuid7_at(1_780_000_000)
    values: dict[str, Any] = {"id": agent_id, "name": str(agent_id), "groups": groups or []}
    await connection.execute(text("INSERT INTO agents (id, name, key_hash) VALUES (:id, :name, '')"), values)
    await connection.execute(
        text("INSERT INTO group_members SELECT name, :id FROM unnest(CAST(:groups AS text[])) AS name"), values
    )
    return agent_id


def continuous_command(target: CommandTarget, seconds: float = 3_600, **changes: Any) -> NewCommand:
    until = datetime.now(UTC) + timedelta(seconds=seconds)
    return NewCommand("Engine", target, Action("tidy"), 600, continuous=True, until=until, **changes)


async def submit(submissions: Submissions, target: CommandTarget, **changes: Any) -> UUID:
    [submitted] = await submissions.submit("olga", [continuous_command(target, **changes)])
    return submitted.request_id


async def recipients(engine: Engine, request_id: UUID) -> list[UUID]:
    async with engine.connect() as connection:
        return await connection.scalars(
            text("SELECT agent_id FROM orders WHERE request_id = :id ORDER BY position"), {"id": request_id}
        )


async def test_each_agent_gets_one_order_however_often_it_changes(
    engine: Engine, submissions: Submissions, duty: ContinuousCommands
) -> None:
    group = await make_group(engine)
    async with engine.begin() as connection:
        first, outsider = await enroll(connection, [group]), await enroll(connection)
    request_id = await submit(submissions, CommandTarget("group", group))
    async with engine.begin() as connection:
        second = await enroll(connection, [group])
    await duty.extend()
    assert await recipients(engine, request_id) == [first, second]
    async with engine.begin() as connection:
        values = {"group": group, "id": first, "outsider": outsider}
        await connection.execute(text("DELETE FROM group_members WHERE agent_id = :id"), values)
        await connection.execute(text("INSERT INTO group_members VALUES (:group, :id), (:group, :outsider)"), values)
    await duty.extend()
    assert await recipients(engine, request_id) == [first, second, outsider]
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM changed_agents")) == 0
        total = await connection.scalar(text("SELECT orders FROM commands WHERE request_id = :id"), {"id": request_id})
    assert total == 3


@pytest.mark.parametrize(
    ("change", "agent_filter"),
    [
        ('labels = \'{"site": "rome"}\'', {"labels": {"site": "rome"}}),
        ('host = \'{"os": {"name": "Debian"}}\'', {"os": "debian*"}),
        ("version = '6.1'", {"version": "6.*"}),
        ("name = 'web-1'", {"name": "web-*"}),
    ],
)
async def test_an_agent_that_changes_into_the_filter_gets_the_order(
    engine: Engine, submissions: Submissions, duty: ContinuousCommands, change: str, agent_filter: dict[str, Any]
) -> None:
    target = msgspec.convert({"type": "all", "filter": agent_filter}, CommandTarget)
    request_id = await submit(submissions, target)
    async with engine.begin() as connection:
        agent_id = await enroll(connection)
    await duty.extend()
    assert await recipients(engine, request_id) == []
    async with engine.begin() as connection:
        await connection.execute(text(f"UPDATE agents SET {change} WHERE id = :id"), {"id": agent_id})
    assert await duty.extend() == 1
    assert await recipients(engine, request_id) == [agent_id]


async def test_sightings_and_logins_queue_nothing(engine: Engine, duty: ContinuousCommands) -> None:
    async with engine.begin() as connection:
        agent_id = await enroll(connection)
    await duty.extend()
    async with engine.begin() as connection:
        await connection.execute(
            text("UPDATE agents SET last_seen_at = now(), last_login_at = now(), node = 'a' WHERE id = :id"),
            {"id": agent_id},
        )
        # A description that is repeated changes nothing.
        await connection.execute(
            text("UPDATE agents SET name = name, host = host, version = version WHERE id = :id"), {"id": agent_id}
        )
        assert await connection.scalar(text("SELECT count(*) FROM changed_agents")) == 0


async def test_agents_that_enroll_during_the_submission_are_not_missed(
    engine: Engine, submissions: Submissions, duty: ContinuousCommands
) -> None:
    group = await make_group(engine)
    async with engine.begin() as early:
        before = await enroll(early, [group])  # committed after the submission has looked
        async with engine.connect() as submitting, submitting.transaction():
            await continuous.begin_continuous(submitting, 1)
            late = None
            async with engine.begin() as connection:
                late = await enroll(connection, [group])
            # The duty takes no agent from the queue during a submission.
            assert await duty.extend() == 0
        request_id = await submit(submissions, CommandTarget("group", group))
    await duty.extend()
    assert set(await recipients(engine, request_id)) == {before, late}


async def test_concurrent_nodes_and_failures_give_no_agent_a_second_order(
    engine: Engine, submissions: Submissions, duty: ContinuousCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(continuous, "AGENTS_AT_ONCE", 7)
    group = await make_group(engine)
    request_id = await submit(submissions, CommandTarget("group", group))
    async with engine.begin() as connection:
        agents = [await enroll(connection, [group]) for _ in range(40)]

    add_recipients = continuous._add_recipients  # noqa: SLF001

    async def die(*arguments: Any) -> list[UUID]:
        await add_recipients(*arguments)
        raise ConnectionError("the node dies before its commit")

    with monkeypatch.context() as dying:
        dying.setattr(continuous, "_add_recipients", die)
        with pytest.raises(ConnectionError):
            await duty.extend()
    assert await recipients(engine, request_id) == []
    others = [ContinuousCommands(engine, Notifier(engine, {}), Settings()) for _ in range(4)]
    await asyncio.gather(*(node.extend() for node in others))
    await duty.extend()
    assert sorted(await recipients(engine, request_id)) == sorted(agents)


async def test_a_cancelled_command_gives_no_more_orders(
    engine: Engine, submissions: Submissions, commands: Commands, duty: ContinuousCommands
) -> None:
    group = await make_group(engine)
    request_id = await submit(submissions, CommandTarget("group", group))
    assert (await commands.cancel(request_id, "olga")).cancelled == 0
    assert (await commands.get(request_id)).command.phase == "cancelled"
    async with engine.begin() as connection:
        await enroll(connection, [group])
    await duty.extend()
    assert await recipients(engine, request_id) == []


async def test_a_command_ends_at_its_time_and_its_recipients_are_forgotten(
    engine: Engine, submissions: Submissions, duty: ContinuousCommands
) -> None:
    group = await make_group(engine)
    async with engine.begin() as connection:
        first = await enroll(connection, [group])
    request_id = await submit(submissions, CommandTarget("group", group))
    async with engine.begin() as connection:
        await connection.execute(
            text("UPDATE commands SET continues_until = now() WHERE request_id = :id"), {"id": request_id}
        )
        await enroll(connection, [group])
    await duty.extend()
    assert await recipients(engine, request_id) == [first]
    async with engine.begin() as connection:
        assert await forget_recipients(connection) >= 1
        assert await forget_recipients(connection) == 0


async def test_a_paused_command_holds_the_orders_of_later_agents(
    engine: Engine, submissions: Submissions, commands: Commands, duty: ContinuousCommands
) -> None:
    group = await make_group(engine)
    request_id = await submit(submissions, CommandTarget("group", group))
    assert (await commands.pause(request_id, "olga")).orders == 0
    async with engine.begin() as connection:
        agent_id = await enroll(connection, [group])
    await duty.extend()
    await Rollouts(engine, Notifier(engine, {}), Settings()).advance()
    async with engine.connect() as connection:
        assert (await count_orders(connection, request_id)).held == 1
    assert await claim(engine, [agent_id]) == []
    assert (await commands.resume(request_id, "olga")).orders == 1
    assert len(await claim(engine, [agent_id])) == 1


@pytest.mark.parametrize("operation", ["cancel", "pause"])
@pytest.mark.parametrize("is_first", [True, False])
async def test_a_cancellation_or_a_pause_at_the_same_time_holds_for_later_agents(
    engine: Engine, submissions: Submissions, commands: Commands, operation: str, *, is_first: bool
) -> None:
    group = await make_group(engine)
    request_id = await submit(submissions, CommandTarget("group", group))
    async with engine.begin() as connection:
        agent_id = await enroll(connection, [group])
    duty = ContinuousCommands(engine, Notifier(engine, {}), Settings())
    calls: list[Callable[[], Coroutine[Any, Any, object]]] = [
        duty.extend,
        lambda: getattr(commands, operation)(request_id, "olga"),
    ]
    tasks: list[asyncio.Task[object]] = []
    # Both need the row of the command. Whichever comes first waits for it here, and the other one for its turn.
    async with engine.begin() as connection:
        await connection.execute(text("SELECT FROM commands WHERE request_id = :id FOR UPDATE"), {"id": request_id})
        for call in calls if is_first else reversed(calls):
            tasks.append(asyncio.create_task(call()))
            await until_blocked(engine, tasks)
    await asyncio.gather(*tasks)
    await duty.extend()
    assert await claim(engine, [agent_id]) == []
    open_orders = len(await recipients(engine, request_id))
    assert open_orders == (1 if operation == "pause" else 0)


async def test_the_number_of_continuous_commands_is_bounded(
    engine: Engine, submissions: Submissions, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine.connect() as connection:
        now = await connection.scalar(continuous._COUNT)  # noqa: SLF001
    monkeypatch.setattr(continuous, "CONTINUOUS_MAXIMUM", now + 1)
    request_id = await submit(submissions, CommandTarget("all"))
    with pytest.raises(Conflict):
        await submit(submissions, CommandTarget("all"))
    await commands.cancel(request_id, "olga")
    await submit(submissions, CommandTarget("all"))
