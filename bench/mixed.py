"""Ten minutes of mixed load: memory should stay flat, tables compact and queues bounded."""

import asyncio
import statistics
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from bench.figures import Effort, Figure, Measured, Measurement, percentile
from bench.load import Connection, connect
from bench.messages import event_lines, poll, post, stateful, stateless, submit
from bench.system import KEY, System
from comms_api.protocol import Orders

SECONDS = 600.0
QUICK_SECONDS = 60.0
WARM_UP_SECONDS = 120.0
QUICK_WARM_UP_SECONDS = 70.0
"""Longer than idle connections live and autovacuum takes: then memory and tables should have their final size."""

AGENTS = 60
PAUSE_SECONDS = 1.0
COMMAND_SECONDS = 2.0
SAMPLE_SECONDS = 1.0
EVENTS, STATES = 100, 20
STATES_KEPT = 200
"""States per agent. Each round updates some of them, as inventories change."""

GROUP = "mixed"
TABLES = ("orders", "states", "agents")
_SIZES = f"""
    SELECT relname, pg_total_relation_size(relid) AS bytes, n_live_tup, n_dead_tup FROM pg_stat_user_tables
    WHERE relname IN ('{"', '".join(TABLES)}')"""
_QUEUES = """
    SELECT (SELECT count(*) FROM orders) AS open_orders,
        (SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()) AS active_sessions"""


class Load:
    """The work of agents and an operator; it counts orders and the seconds of each round."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.seconds: list[float] = []
        self.orders = 0

    async def run_agent(self, agent: UUID) -> None:
        """Log in, send events and states, poll and report orders; repeat until cancelled."""
        number, batch = 0, stateless(agent, event_lines(EVENTS, agent.int))
        while True:
            started, number = time.perf_counter(), number + 1
            connection = await connect(self._system)
            await self._round(connection, agent, batch, number)
            connection.close()
            self.seconds.append(time.perf_counter() - started)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _round(self, connection: Connection, agent: UUID, batch: bytes, number: int) -> None:
        login = msgspec.json.encode({"uuid": str(agent), "key": KEY})
        token = str(msgspec.json.decode(await connection.send(post("/login", "", login)))["token"])
        await connection.send(post("/events/stateless", token, batch))
        items = [item % STATES_KEPT for item in range(number * STATES, (number + 1) * STATES)]
        documents = [(f"{item}", msgspec.json.encode({"item": item, "round": number})) for item in items]
        await connection.send(post("/events/stateful", token, stateful(agent, documents)))
        orders = msgspec.json.decode(await connection.send(poll(token, 0)), type=Orders).commands
        results = [
            {"order_id": order.order_id, "result": {"code": 0, "message": "done", "data": {}}} for order in orders
        ]
        if results:
            await connection.send(post("/commands/results", token, msgspec.json.encode({"results": results})))
            self.orders += len(results)

    async def run_operator(self) -> None:
        """Submit a command to all agents every few seconds, until cancelled."""
        connection = await connect(self._system, self._system.management_port)
        request = submit(self._system.administrator_token(), GROUP, "group")
        while True:
            await connection.send(request)
            await asyncio.sleep(COMMAND_SECONDS)


async def measure(system: System, effort: Effort) -> Measured:
    """Load the system moderately, and compare its end state with its state after the warm-up."""
    is_full = effort.share == 1
    seconds = SECONDS if is_full else QUICK_SECONDS
    agents = await system.enroll(AGENTS, GROUP)
    load = Load(system)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in (load.run_operator(), *map(load.run_agent, agents))]
        warm_up = await _sample(system, WARM_UP_SECONDS if is_full else QUICK_WARM_UP_SECONDS)
        tables_before = await _tables(system)
        samples = await _sample(system, seconds)
        tables = await _tables(system)
        for task in tasks:
            task.cancel()
    growth = {name: (tables[name]["bytes"] / tables_before[name]["bytes"] - 1) * 100 for name in TABLES}
    values = {
        "mixed_memory_drift_percent": drift_percent([sample["resident_mb"] for sample in samples]),
        "mixed_table_growth_percent": max(growth.values()),
    }
    raw = {
        "seconds": seconds,
        "warm_up": warm_up,
        "samples": samples,
        "open_orders_maximum": max(sample["open_orders"] for sample in samples),
        "active_sessions_maximum": max(sample["active_sessions"] for sample in samples),
        "tables": {"before": tables_before, "after": tables, "growth_percent": growth},
        "rounds": len(load.seconds),
        "orders": load.orders,
        "round_seconds": {f"p{share * 100:g}": percentile(load.seconds, share) for share in (0.5, 0.99, 1)},
    }
    return Measured(values, raw)


def drift_percent(samples: Sequence[float]) -> float:
    """Return by how many percent the median of the last quarter exceeds that of the first."""
    quarter = max(1, len(samples) // 4)
    first, last = statistics.median(samples[:quarter]), statistics.median(samples[-quarter:])
    return (last / first - 1) * 100


async def _sample(system: System, seconds: float) -> list[dict[str, Any]]:
    samples = []
    started = time.perf_counter()
    async with system.session() as connection:
        while (at := time.perf_counter() - started) < seconds:
            [queues] = await connection.fetch(_QUEUES)
            samples.append({"at": at, "resident_mb": system.resident_bytes() / 2**20, **dict(queues)})
            await asyncio.sleep(SAMPLE_SECONDS)
    return samples


async def _tables(system: System) -> dict[str, dict[str, int]]:
    async with system.session() as connection:
        await connection.execute("ANALYZE")
        return {row["relname"]: dict(row) for row in await connection.fetch(_SIZES)}


MEASUREMENT = Measurement(
    "mixed",
    (
        Figure("mixed_memory_drift_percent", 5, 2, "percent in 10 minutes", is_most=True),
        Figure("mixed_table_growth_percent", 20, 10, "percent in 10 minutes", is_most=True),
    ),
    measure,
)
