"""Any two operations on the orders of one command, forced into each interleaving, leave the command consistent.

A third connection, the gate, locks the rows that both operations need. The first operation runs until it ends or waits
for the gate; then the second one does the same. Then the gate opens: rows that the first has read may be stale by then.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from support.duties import performing
from support.locks import until_blocked
from support.orders import claim, make_dispatcher, submit
from support.waiting import PATIENCE

from comms_api.agents.presence import Presence
from comms_api.commands import control
from comms_api.commands.rollout import Rollout
from comms_api.commands.service import Rollouts
from comms_api.database.connection import Connection, Engine
from comms_api.database.listener import Notifier
from comms_api.errors import Unauthenticated
from comms_api.orders import transitions
from comms_api.orders.dispatcher import Dispatcher
from comms_api.orders.leases import claim_orders, extend_leases, release_orders
from comms_api.orders.model import Claimed, Ending
from comms_api.orders.turns import share_turns, take_turn
from comms_api.protocol import Order
from comms_api.settings import Settings
from comms_api.tokens.issuer import AGENTS, Claims, Tokens
from comms_api.tokens.keyring import Keyring, new_signing_key

pytestmark = pytest.mark.anyio

HALT = control.Halt("paused", "paused by tester", 3600)
ROLLOUT = Rollout(percent=50, failure_ratio=0.4, failures_after=1)
GATES = {
    "orders": "SELECT FROM orders WHERE request_id = :id ORDER BY order_id FOR UPDATE",
    "command": "SELECT FROM commands WHERE request_id = :id FOR UPDATE",
}


@dataclass
class Case:
    """A command with some orders that were offered, and some that were not."""

    engine: Engine
    request_id: UUID
    agents: list[UUID]
    claimed: list[Claimed]

    @property
    def owned(self) -> list[tuple[UUID, UUID]]:
        return [(UUID(claim.order.order_id), claim.agent_id) for claim in self.claimed]

    async def execute(self, statement: str) -> Any:
        async with self.engine.begin() as connection:
            return await connection.execute(text(statement), {"id": self.request_id})


Operation = Callable[[Case, Connection], Awaitable[object]]


async def report(case: Case, connection: Connection) -> int:
    found = [Ending(order_id, agent_id, "success", 0, "done", None) for order_id, agent_id in case.owned]
    return len(await transitions.finish_orders(connection, found))


async def cancel_order(case: Case, connection: Connection) -> int:
    order_id = case.owned[0][0] if case.claimed else UUID(int=0)
    return (await transitions.cancel_order(connection, order_id, "one"))[0]


async def cancel_command(case: Case, connection: Connection) -> int:
    return (await transitions.cancel_command(connection, case.request_id, "all"))[0]


ENDINGS: dict[str, Callable[[Case, Connection], Awaitable[int]]] = {
    "report": report,
    "expire": lambda _, connection: transitions.expire_orders(connection, 10),
    "cancel order": cancel_order,
    "cancel command": cancel_command,
}
OPERATIONS: dict[str, Operation] = {
    "claim": lambda case, connection: claim_orders(connection, case.agents, 600),
    "release": lambda case, connection: release_orders(connection, case.claimed),
    "progress": lambda case, connection: extend_leases(connection, case.owned, 600),
    "pause": lambda case, connection: control.halt(connection, case.request_id, HALT),
    "resume": lambda case, connection: control.resume(connection, case.request_id, ""),
    "advance": lambda case, _: rollouts(case.engine).advance(),
    **ENDINGS,
}
OF_ROWS = {"claim", "progress", "report", "expire", "cancel order"}
"""These operations read and write only the rows of their orders; another test runs storms of them."""
PAIRS = [names for names in product(OPERATIONS, OPERATIONS) if not OF_ROWS.issuperset(names)]


def rollouts(engine: Engine) -> Rollouts:
    return Rollouts(engine, Notifier(engine, {}), Settings())


async def make_case(engine: Engine, phase: str, agents: int, offered: int) -> Case:
    """Submit a command, claim the orders of some agents, and let the first and the last open order expire."""
    request_id, ids = await submit(engine, agents, rollout=ROLLOUT if phase in {"rolling", "failing"} else None)
    case = Case(engine, request_id, ids, [])
    await case.execute("DELETE FROM orders WHERE request_id <> :id")
    await rollouts(engine).advance()
    case.claimed = await claim(engine, ids[:offered])
    await case.execute(
        """UPDATE orders SET expires_at = now() - interval '1 s' WHERE offer_at < 'infinity' AND order_id IN (
            SELECT unnest(ARRAY[min(order_id::text), max(order_id::text)])::uuid FROM orders WHERE request_id = :id)"""
    )
    if phase == "paused":
        async with engine.begin() as connection:
            await control.halt(connection, request_id, HALT)
    if phase == "failing" and case.claimed:
        order_id, agent_id = case.owned[-1]
        async with engine.begin() as connection:
            await transitions.finish_orders(connection, [Ending(order_id, agent_id, "failure", 1, "", None)])
    return case


async def perform(case: Case, name: str) -> object:
    async with case.engine.begin() as connection:
        return await OPERATIONS[name](case, connection)


async def interleave(case: Case, gate: str, names: Sequence[str]) -> list[object]:
    """Let the operations reach the gate one by one, open the gate, and return their results."""
    tasks: list[asyncio.Task[object]] = []
    async with case.engine.begin() as connection:
        await connection.execute(text(GATES[gate]), {"id": case.request_id})
        for name in names:
            tasks.append(asyncio.create_task(perform(case, name)))
            await until_blocked(case.engine, tasks)
    return await asyncio.gather(*tasks)


SOUND = {
    "released": "held = 0",
    "rolling": "true",
    "paused": "free = 0",
    "stopped": "free = 0",
    "cancelled": "open = 0 AND cancelled > 0",
}
_STANDING = """
    SELECT phase, open, finished, cancelled FROM commands, LATERAL (
        SELECT count(*) AS open, count(*) FILTER (WHERE attempt = 0 AND offer_at = 'infinity') AS held,
            count(*) FILTER (WHERE attempt = 0 AND offer_at < 'infinity') AS free FROM orders WHERE request_id = :id
    ) AS open, LATERAL (
        SELECT count(*) AS finished, count(*) FILTER (WHERE result_message LIKE 'cancelled % by all') AS cancelled
        FROM finished_orders WHERE request_id = :id
    ) AS ended WHERE request_id = :id"""
_FAULTS = " OR ".join(f"(phase = '{phase}' AND NOT ({condition}))" for phase, condition in SOUND.items())


async def check(case: Case, finished_before: int, names: Sequence[str], answers: Sequence[object]) -> None:
    """Check that the phase and the orders agree, and that each ending returned the right number."""
    assert not await case.execute(f"{_STANDING} AND ({_FAULTS})"), names
    [row] = await case.execute(_STANDING)
    ended = [answer for name, answer in zip(names, answers, strict=True) if name in ENDINGS]
    assert row.finished - finished_before == sum(ended), names  # type: ignore[arg-type] # an ending returns a number
    cancelled = [answer for name, answer in zip(names, answers, strict=True) if name == "cancel command"]
    assert row.cancelled == sum(cancelled), names  # type: ignore[arg-type] # and so does a cancellation
    assert (row.phase == "cancelled") == (row.cancelled > 0), names
    await rollouts(case.engine).advance()
    [row] = await case.execute(_STANDING)
    assert row.open or row.phase in {"released", "stopped", "cancelled"}, f"{names}: {row.phase} without open orders"


@pytest.mark.parametrize("gate", list(GATES))
@pytest.mark.parametrize("phase", ["released", "paused", "rolling", "failing"])
@pytest.mark.parametrize(("agents", "offered"), [(4, 2), (1, 1), (1, 0)])
async def test_two_operations_leave_a_consistent_command_in_each_interleaving(
    engine: Engine, phase: str, gate: str, agents: int, offered: int
) -> None:
    for names in PAIRS:
        case = await make_case(engine, phase, agents, offered)
        before = (await case.execute(_STANDING))[0].finished
        await check(case, before, names, await interleave(case, gate, names))


async def test_a_rollout_waits_for_releases_but_later_ones_wait_for_the_rollout(engine: Engine) -> None:
    request_id, _ = await submit(engine, 1, rollout=ROLLOUT)

    async def share() -> None:
        async with engine.begin() as connection:
            await share_turns(connection, [request_id])

    async with engine.begin() as connection:
        await share_turns(connection, [request_id])
        step = asyncio.create_task(rollouts(engine).advance())
        await until_blocked(engine, [step])
        later = asyncio.create_task(share())
        await until_blocked(engine, [step, later])
        assert await rollouts(engine).advance() == 0, "another node waits for its turn as well"
    assert await step == 1
    await later


@pytest.mark.parametrize(
    ("first", "second", "attempts", "statuses"),
    [("release", "report", [0], []), ("report", "release", [], ["success"])],
)
async def test_a_report_and_the_release_of_its_order_do_not_undo_each_other(
    engine: Engine, first: str, second: str, attempts: list[int], statuses: list[str]
) -> None:
    case = await make_case(engine, "released", agents=1, offered=1)
    async with engine.begin() as connection:
        await OPERATIONS[first](case, connection)
        later = asyncio.create_task(perform(case, second))
        await until_blocked(engine, [later])
    await later
    open_orders = await case.execute("SELECT attempt FROM orders WHERE request_id = :id")
    ended = await case.execute("SELECT status FROM finished_orders WHERE request_id = :id")
    assert ([attempt for [attempt] in open_orders], [status for [status] in ended]) == (attempts, statuses)


async def test_a_release_that_waits_does_not_delay_claims(engine: Engine) -> None:
    request_id, [gone, waiting] = await submit(engine, 2)
    dispatcher = make_dispatcher(engine)
    async with performing(dispatcher):
        async with engine.begin() as connection:
            await take_turn(connection, request_id)
            with dispatcher.hold(gone, claims_of(gone), PATIENCE) as answer:
                answer.cancel()  # its poll breaks before the claim arrives
                await until_blocked(engine, [], blocked=1)
            assert [order.request_id for order in await poll(dispatcher, waiting)] == [str(request_id)]
        assert [order.request_id for order in await poll(dispatcher, gone)] == [str(request_id)]


async def test_a_poll_whose_token_was_revoked_after_the_guard_gets_nothing(engine: Engine) -> None:
    _, [agent_id] = await submit(engine, 1)
    tokens = Tokens(Keyring([new_signing_key()]), 900, time.time)
    dispatcher = Dispatcher(engine, tokens, Presence(engine, "one"), Settings())
    tokens.revoke({str(agent_id): time.time()})
    dispatcher.end_revoked()
    with pytest.raises(Unauthenticated):
        await poll(dispatcher, agent_id)


def claims_of(agent_id: UUID) -> Claims:
    return Claims(str(agent_id), AGENTS, 1, 2)


async def poll(dispatcher: Dispatcher, agent_id: UUID) -> list[Order]:
    with dispatcher.hold(agent_id, claims_of(agent_id), PATIENCE) as answer:
        return [claim.order for claim in await answer]
