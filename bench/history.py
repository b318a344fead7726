"""The cost of claims and results with and without a long history of finished orders."""

import asyncio
import time
from functools import partial
from uuid import UUID

import msgspec

from bench.figures import Effort, Figure, Measured, Measurement, medians
from bench.load import connect, connect_all, drive, timed
from bench.messages import poll, post, submit
from bench.system import System
from comms_api.protocol import Order, Orders

AGENTS = 2_000
FINISHED = 5_000_000
FILL_STEP = 250_000
ROUNDS = 5
REPORTERS = 16
HELD_SECONDS = 1.0

_FILL = """
    INSERT INTO finished_orders (order_id, request_id, agent_id, agent_groups, attempt, expires_at, sent_at, status,
        result_code, result_message, result_data)
    SELECT uuidv7(), $2, (SELECT id FROM agents LIMIT 1 OFFSET n % 2000), '{fleet}', 1, now(), now(), 'success', 0,
        'done', '{}'
    FROM generate_series(1, $1::int) AS n"""


async def measure(system: System, effort: Effort) -> Measured:
    """Measure rounds of a group command, without a history and with one."""
    agents = await system.enroll(AGENTS, "fleet")
    without = [await _round(system, agents) for _ in range(effort.rounds)]
    finished = effort.of(FINISHED)
    fill_seconds = await timed(partial(_fill, system, finished))
    with_history = [await _round(system, agents) for _ in range(effort.rounds)]
    rates = {
        name: medians({key: [each[key] for each in rounds] for key in rounds[0]})
        for name, rounds in (("without", without), ("with", with_history))
    }
    slower = {key: rates["with"][key] / rates["without"][key] for key in rates["with"]}
    values = {
        "claims_per_second": AGENTS / rates["without"]["claims_s"],
        "results_per_second": AGENTS / rates["without"]["results_s"],
        "claims_beside_history": slower["claims_s"],
        "results_beside_history": slower["results_s"],
    }
    raw = {"finished_orders": finished, "fill_seconds": fill_seconds, "without": without, "with": with_history}
    return Measured(values, raw)


async def _round(system: System, agents: list[UUID]) -> dict[str, float]:
    """Hold every poll, submit to all agents, and let each agent report its order, so that no order stays open."""
    opened = await connect_all(system, [poll(system.token(agent)) for agent in agents])
    await asyncio.sleep(HELD_SECONDS)
    management = await connect(system, system.management_port)
    started = time.perf_counter()
    await management.send(submit(system.administrator_token(), "fleet", "group"))
    bodies = await asyncio.gather(*(answer for _, answer in opened))
    claims_s = time.perf_counter() - started
    for connection, _ in opened:
        connection.close()
    management.close()
    orders = [msgspec.json.decode(body, type=Orders).commands for body in bodies]
    reports = [
        _report(system, agent, order) for agent, claimed in zip(agents, orders, strict=True) for order in claimed
    ]
    results_s = await drive(system, [reports[start::REPORTERS] for start in range(REPORTERS)])
    return {"claims_s": claims_s, "results_s": results_s}


def _report(system: System, agent: UUID, order: Order) -> bytes:
    result = {"order_id": order.order_id, "result": {"code": 0, "message": "done", "data": {}}}
    return post("/commands/results", system.token(agent), msgspec.json.encode({"results": [result]}))


async def _fill(system: System, orders: int) -> None:
    async with system.session() as connection:
        for start in range(0, orders, FILL_STEP):
            await connection.execute(_FILL, min(FILL_STEP, orders - start), UUID(int=start))
        await connection.execute("VACUUM ANALYZE finished_orders")
    await system.checkpoint()


MEASUREMENT = Measurement(
    "history",
    (
        Figure("claims_per_second", 1_000, 5_000, "held polls answered by one group command"),
        Figure("results_per_second", 1_000, 3_000, "one-result requests"),
        Figure("claims_beside_history", 1.3, 1.1, "ratio of time, 5 million finished orders / none", is_most=True),
        Figure("results_beside_history", 1.3, 1.1, "ratio of time, 5 million finished orders / none", is_most=True),
    ),
    measure,
)
