"""What held polls, orders and logins cost."""

import asyncio
import resource
import time
from contextlib import closing
from uuid import UUID

import msgspec

from bench.load import Connection, batch, connect, event_lines, percentile, poll, post
from bench.system import KEY, System, command
from comms_api.protocol import Orders

POLLS = 10_000
IDLE_SECONDS = 10.0
SPARE_DESCRIPTORS = 500


async def measure_rest(system: System) -> dict[str, float]:
    """Return the memory of a worker that has just started."""
    await asyncio.sleep(1)
    return {"rest_mb": system.resident_bytes() / 2**20}


async def measure_polls(system: System) -> dict[str, float]:
    """Return the memory of a held poll, what idle polls do to others, and how soon a group command wakes them all."""
    held = min(POLLS, _descriptors() - SPARE_DESCRIPTORS)
    agents = await system.enroll(held, "polls")
    probe = (await system.enroll(1, "probe"))[0]
    alone = await _others(system, probe)
    await asyncio.sleep(1)
    before = system.resident_bytes()
    connections = [await _hold(system, agent) for agent in agents]
    await asyncio.sleep(2)
    poll_kb = (system.resident_bytes() - before) / held / 1024
    beside = await _others(system, probe)
    busy = system.cpu_seconds()
    await asyncio.sleep(IDLE_SECONDS)
    idle_cpu_percent = (system.cpu_seconds() - busy) / IDLE_SECONDS * 100
    wake = await _wake(system, connections)
    for connection in connections:
        connection.close()
    return {
        "polls_held": held,
        "poll_kb": poll_kb,
        "idle_poll_interference": beside / alone,
        "idle_cpu_percent": idle_cpu_percent,
        "group_wake_p50_s": percentile(wake, 0.5),
        "group_wake_p99_s": percentile(wake, 0.99),
    }


def _descriptors() -> int:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else POLLS * 2
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


async def _hold(system: System, agent: UUID) -> Connection:
    connection = await connect(system)
    connection.send(poll(system.token(agent)))
    return connection


async def _others(system: System, agent: UUID) -> float:
    """Return the p99 of one-event requests, one after the other, in seconds."""
    connection = await connect(system)
    request = post("/events/stateless", system.token(agent), batch(agent, event_lines(1)))
    times = []
    for _ in range(1000):
        started = time.perf_counter()
        await connection.exchange(request)
        times.append(time.perf_counter() - started)
    connection.close()
    return percentile(times, 0.99)


async def _wake(system: System, connections: list[Connection]) -> list[float]:
    """Return how many seconds after the submission each poll has its order."""

    async def answered(connection: Connection) -> float:
        body = await connection.read()
        if len(msgspec.json.decode(body, type=Orders).commands) != 1:
            raise RuntimeError(body.decode())
        return time.perf_counter()

    tasks = [asyncio.create_task(answered(connection)) for connection in connections]
    with closing(system.management()) as management:
        started = time.perf_counter()
        answer = await asyncio.to_thread(management.post, "/commands", json=command("polls", "group"))
        answer.raise_for_status()
    return [at - started for at in await asyncio.gather(*tasks)]


async def measure_one_order(system: System) -> dict[str, float]:
    """Return the time from a submission to the agent's having the order, on an idle system."""
    [agent] = await system.enroll(1, "one")
    connection = await connect(system)
    request = poll(system.token(agent))
    times = []
    with closing(system.management()) as management:
        for _ in range(300):
            connection.send(request)
            await asyncio.sleep(0.01)
            started = time.perf_counter()
            submission = asyncio.create_task(
                asyncio.to_thread(management.post, "/commands", json=command(str(agent), "agent"))
            )
            await connection.read()
            times.append(time.perf_counter() - started)
            (await submission).raise_for_status()
    connection.close()
    return {"order_p50_ms": percentile(times, 0.5) * 1000, "order_p99_ms": percentile(times, 0.99) * 1000}


async def measure_logins(system: System) -> dict[str, float]:
    """Return logins, each on a TLS connection of its own, per second of the server's CPU."""
    [agent] = await system.enroll(1, "login")
    request = post("/login", "", msgspec.json.encode({"uuid": str(agent), "key": KEY}))
    logins, at_once = 600, 8

    async def log_in() -> None:
        for _ in range(logins // at_once):
            connection = await connect(system)
            await connection.exchange(request)
            connection.close()

    before, started = system.cpu_seconds(), time.perf_counter()
    await asyncio.gather(*(log_in() for _ in range(at_once)))
    return {
        "logins_per_core": logins / (system.cpu_seconds() - before),
        "logins_per_second": logins / (time.perf_counter() - started),
    }


async def measure_expansion(system: System) -> dict[str, float]:
    """Return how much longer a command to 100,000 agents takes than the bare INSERT … SELECT of its orders."""
    await system.enroll(100_000, "everyone")
    connection = await system.connect()
    times: dict[str, list[float]] = {"bare": [], "command": []}
    with closing(system.management()) as management:
        for _ in range(3):
            started = time.perf_counter()
            await connection.execute(_BARE)
            times["bare"].append(time.perf_counter() - started)
            await connection.execute("DELETE FROM orders WHERE agent_groups = '{bare}'")
            started = time.perf_counter()
            answer = await asyncio.to_thread(management.post, "/commands", json=command("everyone", "group"))
            times["command"].append(time.perf_counter() - started)
            answer.raise_for_status()
            await connection.execute("DELETE FROM orders")
            await connection.execute("VACUUM orders")
    await connection.close()
    return {
        "expansion_100k_vs_insert": min(times["command"]) / min(times["bare"]),
        "expansion_100k_seconds": min(times["command"]),
    }


_BARE = """
    INSERT INTO orders (order_id, request_id, agent_id, agent_groups, expires_at)
    SELECT gen_random_uuid(), '00000000-0000-7000-8000-000000000000', agent_id, '{bare}', now() + interval '1 h'
    FROM group_members WHERE group_name = 'everyone'"""
