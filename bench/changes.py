"""The time until a change reaches agents: a file of their group, or a continuous command that a new agent matches."""

import asyncio
import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec

from bench.figures import Effort, Figure, Measured, Measurement, percentile
from bench.load import Connection, connect, connect_all
from bench.messages import poll, post, put
from bench.system import System
from comms_api.database.uuid7 import uuid7_at
from comms_api.protocol import Orders
from comms_api.settings import Settings

AGENTS = 100
CHANGES = 20
ENROLLMENTS = 200
SETTLED_MS = Settings().configuration_settle_seconds * 1000
REGISTERED_SECONDS = 0.2
"""After this time, the server holds the agents' polls."""


async def measure(system: System, effort: Effort) -> Measured:
    """Change a file of a group whose agents hold polls, and enroll agents that a continuous command matches."""
    announced = await _announce(system, effort.of(CHANGES))
    offered = await _enroll(system, effort.of(ENROLLMENTS))
    values = {
        "announcement_p99_ms": percentile(announced, 0.99) - SETTLED_MS,
        "continuous_p99_ms": percentile(offered, 0.99),
    }
    return Measured(values, {"announced_ms": announced, "offered_ms": offered})


async def _announce(system: System, changes: int) -> list[float]:
    """Return the milliseconds from the request of each change until each agent has its order."""
    agents = await system.enroll(AGENTS, "changed")
    opened = await connect_all(system, [poll(system.token(agent)) for agent in agents])
    connections, answers = [connection for connection, _ in opened], [answer for _, answer in opened]
    management = await connect(system, system.management_port)
    times, arrivals = list[float](), list[float]()
    for number in range(changes):
        await asyncio.sleep(REGISTERED_SECONDS)
        started = time.perf_counter()
        for answer in answers:
            answer.add_done_callback(lambda _: arrivals.append(time.perf_counter()))
        path = "/groups/changed/files/changed.yml"
        await management.send(put(path, system.administrator_token(), b"version: %d\n" % number))
        bodies = await asyncio.gather(*answers)
        times += [(at - started) * 1000 for at in arrivals]
        arrivals.clear()
        await _report(system, agents, connections, bodies)
        answers = [
            connection.send(poll(system.token(agent))) for agent, connection in zip(agents, connections, strict=True)
        ]
    for connection in (management, *connections):
        connection.close()
    return times


async def _report(
    system: System, agents: Sequence[UUID], connections: Sequence[Connection], bodies: Sequence[bytes]
) -> None:
    """Report the only order of each agent as done."""
    reports = []
    for agent, connection, body in zip(agents, connections, bodies, strict=True):
        [order] = msgspec.json.decode(body, type=Orders).commands
        result = {"order_id": order.order_id, "result": {"code": 0, "message": "", "data": {}}}
        content = msgspec.json.encode({"results": [result]})
        reports.append(connection.send(post("/commands/results", system.token(agent), content)))
    await asyncio.gather(*reports)


async def _enroll(system: System, count: int) -> list[float]:
    """Return the milliseconds from the request of each enrollment until the agent's first poll has the order."""
    await system.enroll(0, "later")
    management, polls = await connect(system, system.management_port), await connect(system)
    command = {
        "source": "Engine",
        "target": {"id": "later", "type": "group"},
        "action": {"name": "restart", "args": {}},
        "timeout": 600,
        "continuous": True,
        "until": datetime.now(UTC) + timedelta(hours=1),
    }
    await management.send(post("/commands", system.administrator_token(), msgspec.json.encode(command)))
    times = []
    for _ in range(count):
        agent = uuid7_at(time.time())
        enrollment = {"id": agent, "name": str(agent), "key": secrets.token_hex(16), "groups": ["later"]}
        request, token = msgspec.json.encode(enrollment), system.token(agent)
        started = time.perf_counter()
        await management.send(post("/agents", system.administrator_token(), request))
        [_order] = msgspec.json.decode(await polls.send(poll(token)), type=Orders).commands
        times.append((time.perf_counter() - started) * 1000)
    for connection in (management, polls):
        connection.close()
    return times


MEASUREMENT = Measurement(
    "changes",
    (
        Figure("announcement_p99_ms", 300, 150, "ms from a change to held polls, beyond the settle time", is_most=True),
        Figure("continuous_p99_ms", 1000, 500, "ms from an enrollment to the order of a command", is_most=True),
    ),
    measure,
)
