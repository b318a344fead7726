"""The time until one order reaches its agent: on an idle system, and while 2,000 other polls are held."""

import asyncio
import time
from uuid import UUID

import msgspec

from bench.figures import Effort, Figure, Measured, Measurement, percentile
from bench.load import Connection, connect, connect_all
from bench.messages import poll, post, submit
from bench.system import System
from comms_api.protocol import Orders

TRIES = 200
OTHERS = 2_000
WARM_UP_TRIES = 20
REGISTERED_SECONDS = 0.02
"""After this time, the server holds the agent's next poll."""


async def measure(system: System, effort: Effort) -> Measured:
    """Measure one agent alone, and while the polls of other agents are held."""
    [agent] = await system.enroll(1, "one")
    others = await system.enroll(effort.of(OTHERS), "others")
    alone = await _times(system, agent, effort.of(TRIES))
    opened = await connect_all(system, [poll(system.token(other)) for other in others])
    crowded = await _times(system, agent, effort.of(TRIES))
    for connection, _ in opened:
        connection.close()
    values = {
        "order_p50_ms": percentile(alone, 0.5) * 1000,
        "order_p99_ms": percentile(alone, 0.99) * 1000,
        "order_p99_ms_beside_2000_polls": percentile(crowded, 0.99) * 1000,
    }
    return Measured(values, {"seconds": {"alone": alone, "crowded": crowded}, "others": len(others)})


async def _times(system: System, agent: UUID, tries: int) -> list[float]:
    """Submit commands one after the other to one agent, which reports each order and polls again."""
    request = submit(system.administrator_token(), str(agent), "agent")
    management = await connect(system, system.management_port)
    polls, reports = await connect(system), await connect(system)
    times = []
    for _ in range(WARM_UP_TRIES + tries):
        answer = polls.send(poll(system.token(agent)))
        await asyncio.sleep(REGISTERED_SECONDS)
        started = time.perf_counter()
        submission = management.send(request)
        body = await answer
        times.append(time.perf_counter() - started)
        await submission
        await _report(system, agent, reports, body)
    for connection in (management, polls, reports):
        connection.close()
    return times[WARM_UP_TRIES:]


async def _report(system: System, agent: UUID, connection: Connection, body: bytes) -> None:
    [order] = msgspec.json.decode(body, type=Orders).commands
    result = {"order_id": order.order_id, "result": {"code": 0, "message": "", "data": {}}}
    report = msgspec.json.encode({"results": [result]})
    await connection.send(post("/commands/results", system.token(agent), report))


MEASUREMENT = Measurement(
    "order",
    (
        Figure("order_p50_ms", 5, 2, "milliseconds", is_most=True),
        Figure("order_p99_ms", 20, 20, "milliseconds", is_most=True),
        Figure("order_p99_ms_beside_2000_polls", 20, 20, "milliseconds", is_most=True),
    ),
    measure,
)
