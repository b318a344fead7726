"""A submission uses few statements, leaves nothing behind if it is refused, and notifies agents after the commit."""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
import pytest
from sqlalchemy import text
from support.duties import performing
from support.orders import make_dispatcher, make_submissions
from support.server import new_id
from support.statements import recorded_statements
from support.waiting import PATIENCE, until

from comms_api.commands.model import NewCommand
from comms_api.commands.service import Commands
from comms_api.commands.submission.submissions import Submissions
from comms_api.database.actor import Actor, acting_as
from comms_api.database.connection import Engine
from comms_api.database.listener import Notifier
from comms_api.database.uuid7 import DatabaseClock
from comms_api.errors import Invalid
from comms_api.orders.dispatcher import ORDERS_CHANNEL, Dispatcher
from comms_api.orders.leases import claim_orders
from comms_api.orders.model import Claimed, CommandTarget
from comms_api.orders.service import StoredOrders
from comms_api.protocol import Action
from comms_api.settings import Settings
from comms_api.tokens.issuer import AGENTS, Claims

pytestmark = pytest.mark.anyio


async def add_agents(engine: Engine, count: int) -> list[UUID]:
    ids = [new_id() for _ in range(count)]
    async with engine.begin() as connection:
        await connection.execute(
            text("INSERT INTO agents (id, name, key_hash) SELECT id, id, '' FROM unnest(CAST(:ids AS uuid[])) AS id"),
            {"ids": ids},
        )
    return ids


@pytest.fixture
def dispatcher(engine: Engine) -> Dispatcher:
    return make_dispatcher(engine)


def submissions_of(engine: Engine, dispatcher: Dispatcher, notified: list[object]) -> Submissions:
    """Return the service, which adds the agents of each notification to `notified`."""
    notifier = Notifier(engine, {ORDERS_CHANNEL: notified.append})
    return make_submissions(engine, notifier, dispatcher)


@pytest.fixture
def submissions(engine: Engine, dispatcher: Dispatcher) -> Submissions:
    return submissions_of(engine, dispatcher, [])


def restart(*names: object) -> NewCommand:
    ids = [str(name) for name in names]
    return NewCommand("Engine", CommandTarget("agent", ids if len(ids) > 1 else ids[0]), Action("restart"), 60)


def first_words(statements: Iterable[str]) -> list[str]:
    return [statement.split()[0].rstrip(";") for statement in statements]


async def test_a_command_to_one_agent_is_one_round_trip_and_knows_its_actor(
    engine: Engine, submissions: Submissions
) -> None:
    [agent_id] = await add_agents(engine, 1)
    with acting_as(Actor("olga", "192.0.2.1")), recorded_statements(engine) as sent:
        [submitted] = await submissions.submit("olga", [restart(agent_id)])
        assert first_words(sent) == ["WITH"]
        async with engine.connect() as connection:  # no earlier statement sets the actor, either
            settings = text("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE 'SELECT set_config%'")
            assert await connection.execute(settings) == [(0,)]
        await asyncio.sleep(0)  # asyncpg reports a statement a little later
        sent.clear()
        await submissions.submit("olga", [restart(agent_id), restart(agent_id)])
        assert first_words(sent) == ["BEGIN", "WITH", "WITH", "COMMIT"]
    async with engine.connect() as connection:
        audited = text("SELECT actor, address, CAST(after ->> 'orders' AS int) FROM audit WHERE key = :key")
        assert await connection.first(audited, {"key": str(submitted.request_id)}) == ("olga", "192.0.2.1", 1)
        # The statement set the actor only for itself.
        assert not await connection.scalar(text("SELECT current_setting('comms_api.actor', true)"))


@pytest.mark.parametrize("known", [0, 1, 2])
async def test_a_command_to_an_unknown_agent_leaves_nothing_behind(
    engine: Engine, submissions: Submissions, known: int
) -> None:
    agents, unknown = await add_agents(engine, known), new_id()
    with pytest.raises(Invalid, match=f"there is no agent '{unknown}'; nothing was submitted"):
        await submissions.submit("olga", [restart(*agents, unknown)])
    async with engine.connect() as connection:
        left = text("""SELECT (SELECT count(*) FROM orders WHERE agent_id = ANY(:ids)),
            (SELECT count(*) FROM commands WHERE :name = ANY(target_ids))""")
        assert await connection.first(left, {"ids": [*agents, unknown], "name": str(unknown)}) == (0, 0)


async def test_an_agent_that_is_named_twice_gets_one_order(engine: Engine, submissions: Submissions) -> None:
    [agent_id] = await add_agents(engine, 1)
    [submitted] = await submissions.submit("olga", [restart(agent_id, str(agent_id).upper())])
    assert submitted.orders == 1


async def test_agents_are_notified_of_orders_after_the_commit(engine: Engine, dispatcher: Dispatcher) -> None:
    under_way: list[int] = []
    notifier = Notifier(engine, {ORDERS_CHANNEL: lambda _: under_way.append(engine.sqlalchemy.pool.checkedout())})  # type: ignore[attr-defined] # of its pool
    commands = Commands(engine, DatabaseClock(), notifier, Settings())
    orders = StoredOrders(engine, DatabaseClock(), notifier)
    submissions = make_submissions(engine, notifier, dispatcher)
    agents = await add_agents(engine, 2)
    [of_both], [of_one] = [await submissions.submit("olga", [restart(*names)]) for names in (agents, agents[:1])]
    async with engine.begin() as connection:
        await claim_orders(connection, agents, 60)
    assert (await commands.cancel(of_both.request_id, "olga")).told == 2
    await orders.cancel(of_one.order_ids[0], "olga")
    assert under_way == [0, 0, 0, 0]


ORDERS_OF = text("SELECT attempt, sent_at IS NOT NULL, offer_at > now() FROM orders WHERE agent_id = :agent_id")


def claims_of(agent_id: UUID) -> Claims:
    return Claims(str(agent_id), AGENTS, 1, 2)


async def kept(engine: Engine, agent_id: UUID) -> list[tuple[int, bool, bool]]:
    """Return for each open order its attempt, whether it was sent, and whether it is leased."""
    async with engine.connect() as connection:
        return [tuple(row) for row in await connection.execute(ORDERS_OF, {"agent_id": agent_id})]


async def offered_again(engine: Engine, agent_id: UUID) -> list[Claimed]:
    """Let the leases of an agent end, and claim its orders."""
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE orders SET offer_at = now() WHERE agent_id = :id"), {"id": agent_id})
        return await claim_orders(connection, [agent_id], 60)


async def test_the_submission_itself_answers_a_poll_that_is_held_here(engine: Engine, dispatcher: Dispatcher) -> None:
    [agent_id] = await add_agents(engine, 1)
    notified: list[object] = []
    submissions = submissions_of(engine, dispatcher, notified)
    with dispatcher.hold(agent_id, claims_of(agent_id), 60) as answer, recorded_statements(engine) as sent:
        await submissions.submit("olga", [restart(agent_id)])
        assert (first_words(sent), notified) == (["WITH"], [])
        [claim] = await answer
    assert await kept(engine, agent_id) == [(1, True, True)]
    assert await offered_again(engine, agent_id) == [Claimed(agent_id, 2, claim.order)]


async def test_a_poll_that_is_held_here_gets_older_orders_first(
    engine: Engine, submissions: Submissions, dispatcher: Dispatcher
) -> None:
    [agent_id] = await add_agents(engine, 1)
    first = (await submissions.submit("olga", [restart(agent_id)]))[0].order_ids
    with dispatcher.hold(agent_id, claims_of(agent_id), 60) as answer:
        second = (await submissions.submit("olga", [restart(agent_id)]))[0].order_ids
        assert not answer.done()
    assert await kept(engine, agent_id) == [(0, False, False)] * 2
    claimed = await offered_again(engine, agent_id)
    assert [claim.order.order_id for claim in claimed] == [str(order_id) for order_id in first + second]


async def test_a_poll_that_is_held_here_does_not_get_an_order_that_is_due_later(
    engine: Engine, submissions: Submissions, dispatcher: Dispatcher
) -> None:
    [agent_id] = await add_agents(engine, 1)
    later = msgspec.structs.replace(restart(agent_id), start_at=datetime.now(UTC) + timedelta(hours=1))
    with dispatcher.hold(agent_id, claims_of(agent_id), 60) as answer:
        await submissions.submit("olga", [later])
        assert not answer.done()
    assert await kept(engine, agent_id) == [(0, False, True)]


async def test_an_order_whose_poll_has_ended_by_then_is_released_and_notified(
    engine: Engine, dispatcher: Dispatcher
) -> None:
    [agent_id] = await add_agents(engine, 1)
    notified: list[object] = []
    submissions = submissions_of(engine, dispatcher, notified)
    with dispatcher.hold(agent_id, claims_of(agent_id), 60) as answer:
        answer.cancel()
        await submissions.submit("olga", [restart(agent_id)])
    assert await kept(engine, agent_id) == [(0, False, False)]
    assert notified == [{str(agent_id)}]


async def test_an_older_order_whose_claim_is_in_progress_goes_first(engine: Engine, dispatcher: Dispatcher) -> None:
    """The claim has been committed, but its answer is late, so the database has no older due order any more."""
    notifier = Notifier(engine, {ORDERS_CHANNEL: dispatcher.wake})
    submissions = make_submissions(engine, notifier, dispatcher)
    [agent_id] = await add_agents(engine, 1)
    [older] = (await submissions.submit("olga", [restart(agent_id)]))[0].order_ids
    async with engine.connect() as connection:
        await claim_orders(connection, [], 60)  # prepares the statement on the connection that the pool returns next
        transport = connection.driver._transport  # noqa: SLF001 - nothing public delays an answer
    transport.pause_reading()
    async with performing(dispatcher):
        with dispatcher.hold(agent_id, claims_of(agent_id), 60) as answer:
            await until(lambda: engine.sqlalchemy.pool.checkedout() == 1)  # type: ignore[attr-defined] # of its pool
            async with asyncio.timeout(PATIENCE):
                while await kept(engine, agent_id) != [(1, True, True)]:  # noqa: ASYNC110 - a commit causes no event in this loop
                    await asyncio.sleep(0.01)
            await submissions.submit("olga", [restart(agent_id)])
            assert not answer.done()
            transport.resume_reading()
            assert [claim.order.order_id for claim in await answer] == [str(older)]
