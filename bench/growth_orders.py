"""The cost of a poll and of an order as the fleet grows to 100,000 agents with 10 million finished orders."""

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import Any
from uuid import UUID

import msgspec

from bench.figures import Effort, Figure, Measured, Measurement
from bench.growth import FLEET, Filling, compare, schema_pair
from bench.load import Connection, connect
from bench.messages import poll, post, submit
from bench.system import System
from comms_api.protocol import Orders

SIZES = (100_000, 1_000_000, 10_000_000)
QUICK_SHARE = 0.01
CONNECTIONS = 32
GROUP = "acting"
CHANGING = ("orders", "finished_orders", "commands")

FILLING = Filling(
    "finished_orders",
    "order_id",
    """request_id, agent_id, agent_groups, attempt, expires_at, sent_at, status, result_code, result_message,
        result_data""",
    # Each command of the history has 1,000 orders.
    """('00000000-0000-7000-8000-' || lpad((n / 1000)::text, 12, '0'))::uuid,
        ($4::uuid[])[1 + (n::int8 * 7919) % cardinality($4::uuid[])], '{acting}', 1, now(), now(), 'success', 0,
        'done', '{}'""",
)
FILL_COMMANDS = """
    INSERT INTO commands (request_id, source, user_name, target_type, target_ids, action_name, action_version,
        action_args, timeout_seconds, expires_at)
    SELECT request_id, 'Engine', 'admin', 'group', '{acting}'::text[], 'restart', '', '{}'::json, 600, now()
    FROM (SELECT DISTINCT request_id FROM finished_orders) AS known"""
FILL_OPEN = """
    INSERT INTO orders (order_id, request_id, agent_id, agent_groups, expires_at)
    SELECT uuidv7(), '00000000-0000-7000-8000-000000000000', id, '{fleet}', now() + interval '1 day'
    FROM unnest($1::uuid[]) AS id"""


async def measure(system: System, effort: Effort) -> Measured:
    """Poll without orders, and take orders from submission to report, in a small and in a grown system."""
    share = 1.0 if effort.share == 1 else QUICK_SHARE
    points: list[dict[str, Any]] = []
    async with schema_pair(system) as pair, system.session() as connection:
        acting = await pair.make(GROUP, int(FLEET * max(share, 0.1)))
        for size in SIZES if share == 1 else SIZES[-1:]:
            started = time.perf_counter()
            await pair.fill(FILLING, int(size * share))
            fill_seconds = time.perf_counter() - started
            await connection.execute("TRUNCATE orders, commands")
            await connection.execute(FILL_COMMANDS)
            await connection.execute(FILL_OPEN, sorted(set(pair.fleet) - set(acting)))
            await connection.execute("VACUUM ANALYZE")
            table = await pair.size("finished_orders")
            measured = {
                "polls": await compare(pair, effort, CHANGING, partial(_poll_all, system, acting)),
                "orders": await compare(pair, effort, CHANGING, partial(_live, system, acting)),
            }
            points.append({"rows": int(size * share), "fill_seconds": fill_seconds, "table": table, **measured})
    values = {f"growth_{name}": max(points[-1][name]["ratios"].values()) for name in ("polls", "orders")}
    return Measured(values, {"points": points, "agents": len(pair.fleet)})


async def _poll_all(system: System, agents: Sequence[UUID]) -> dict[str, float]:
    """Let each agent poll once; there are no orders."""
    before, started = system.cpu(), time.perf_counter()
    await _ask(system, [poll(system.token(agent), 0) for agent in agents])
    return _cost(system, before, started, len(agents))


async def _live(system: System, agents: Sequence[UUID]) -> dict[str, float]:
    """Submit a command to the agents, which poll and report their orders."""
    polls = [poll(system.token(agent), 0) for agent in agents]
    before, started = system.cpu(), time.perf_counter()
    management = await connect(system, system.management_port)
    await management.send(submit(system.administrator_token(), GROUP, "group"))
    management.close()
    answers = await _ask(system, polls)
    await _ask(system, [_report(system, agent, body) for agent, body in zip(agents, answers, strict=True)])
    return _cost(system, before, started, len(agents))


def _report(system: System, agent: UUID, body: bytes) -> bytes:
    [order] = msgspec.json.decode(body, type=Orders).commands
    result = {"order_id": order.order_id, "result": {"code": 0, "message": "done", "data": {}}}
    return post("/commands/results", system.token(agent), msgspec.json.encode({"results": [result]}))


async def _ask(system: System, requests: Sequence[bytes]) -> list[bytes]:
    """Send the requests over a few connections; return the answers in the order of the requests."""
    connections = [await connect(system) for _ in range(CONNECTIONS)]
    answers = await asyncio.gather(
        *(_ask_one(connection, requests[start::CONNECTIONS]) for start, connection in enumerate(connections))
    )
    for connection in connections:
        connection.close()
    return [answers[number % CONNECTIONS][number // CONNECTIONS] for number in range(len(requests))]


async def _ask_one(connection: Connection, requests: Sequence[bytes]) -> list[bytes]:
    return [await connection.send(request) for request in requests]


def _cost(system: System, before: dict[str, float], started: float, count: int) -> dict[str, float]:
    seconds, cpu = time.perf_counter() - started, system.cpu_since(before, count)
    return {"cpu_us": cpu["server"] + cpu["postgresql"], "time_us": seconds / count * 1e6}


MEASUREMENT = Measurement(
    "growth_orders",
    (
        Figure("growth_polls", 1.3, 1.1, "ratio of cost", is_most=True),
        Figure("growth_orders", 1.3, 1.1, "ratio of cost", is_most=True),
    ),
    measure,
)
