"""The cost of each operation of agents: CPU of server and PostgreSQL, bytes in tables and in the log."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TypeVar
from uuid import UUID

import asyncpg
import msgspec

from bench.figures import Effort, Figure, Measured, Measurement
from bench.load import connect, drive
from bench.messages import event_batches, event_lines, poll, post, stateful
from bench.row_table import TABLE, create_row_table
from bench.system import KEY, System
from comms_api.agents.sightings import Sighting, record_sightings
from comms_api.commands.model import NewCommand
from comms_api.commands.submission.expansion import expand_command, expansion_of
from comms_api.database.connect import open_engine
from comms_api.database.connection import Engine
from comms_api.database.uuid7 import uuid7_at
from comms_api.orders.archive.chunks import archive_orders
from comms_api.orders.leases import claim_orders
from comms_api.orders.model import Ending
from comms_api.orders.transitions import finish_orders
from comms_api.settings import Settings

AGENTS = 20_000
SENDERS = 32
EVENTS = {"event": 100, "small_batch_event": 5, "single_event": 1}
"""The number of events in a batch, for each way of sending events."""

STATES = 20
ROUNDS = 200
FRESH = 3_000
GROUP = "footprint"
AT_ONCE = 500
"""The number of agents whose polls, results or sightings share a statement."""

_SIZE = """
    SELECT coalesce(sum(pg_total_relation_size(relid))::int8, pg_total_relation_size($1::text::regclass))
    FROM pg_partition_tree($1::text::regclass)"""
_INSERT_ROWS = f"""
    INSERT INTO {TABLE}
    SELECT id, agent_id, 'logcollector', 'file', line::json
    FROM event_batches JOIN unnest($1::uuid[], $2::text[]) AS sent (agent_id, line) USING (agent_id)
    WHERE events = 1 ORDER BY id"""
_BEHIND = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1::text::pg_lsn)::int8"

_Item = TypeVar("_Item")
Costs = dict[str, float]


class CostMeter:
    """Measures the CPU of server and database, and the growth of the database, for one operation at a time."""

    def __init__(self, system: System, connection: asyncpg.Connection) -> None:
        self._system = system
        self._connection = connection
        self.costs: dict[str, Costs] = {}

    @asynccontextmanager
    async def measure(self, name: str, count: int, table: str | None = None) -> AsyncIterator[None]:
        """Note the cost of each of the `count` operations in the block, with the growth of `table` if one is named."""
        bytes_before = await self._size(table)
        lsn = await self._connection.fetchval("SELECT pg_current_wal_insert_lsn()::text")
        before = self._system.cpu()
        yield
        cpu = self._system.cpu_since(before, count)
        cost = {
            "server_cpu_us": cpu["server"],
            "postgresql_cpu_us": cpu["postgresql"],
            "log_bytes": await self._connection.fetchval(_BEHIND, lsn) / count,
        }
        if table:
            cost["table_bytes"] = (await self._size(table) - bytes_before) / count
        self.costs[name] = cost

    async def _size(self, table: str | None) -> int:
        return int(await self._connection.fetchval(_SIZE, table)) if table else 0


async def measure(system: System, effort: Effort) -> Measured:
    """Send events and states through the server; run the other operations through the stores."""
    agents = sorted(await system.enroll(effort.of(AGENTS), GROUP))
    rounds = effort.of(ROUNDS)
    engine = open_engine(system.cluster.url, Settings())
    async with system.session() as connection:
        meter = CostMeter(system, connection)
        for name, events in EVENTS.items():
            requests = event_batches(agents[:SENDERS], system.token, events)
            async with meter.measure(name, SENDERS * rounds * events, "event_batches"):
                await drive(system, [[request] * rounds for request in requests])
        row_bytes = await _row_bytes(system, connection, agents[:SENDERS])
        async with meter.measure("state", SENDERS * rounds * STATES, "states"):
            await drive(system, [_state_requests(system, agent, rounds) for agent in agents[:SENDERS]])
        for name, requests in _single_requests(system, agents, effort.of(FRESH)).items():
            async with meter.measure(name, len(requests)):
                await _send_fresh(system, requests)
        async with meter.measure("sighting", len(agents)):
            await _record_sightings(engine, agents)
        async with meter.measure("poll", len(agents)):
            await _claim(engine, agents)
        await _live(engine, meter, agents)
        agent_bytes = await connection.fetchval("SELECT pg_total_relation_size('agents') / count(*) FROM agents")
    await engine.dispose()
    values = {
        "stored_event_bytes": meter.costs["event"]["table_bytes"],
        "stored_single_event_vs_row": meter.costs["single_event"]["table_bytes"] / row_bytes,
    }
    return Measured(values, {"costs": meter.costs, "row_bytes": row_bytes, "agent_table_bytes": agent_bytes})


async def _row_bytes(system: System, connection: asyncpg.Connection, agents: Sequence[UUID]) -> float:
    """Store the events of the one-event batches as rows, with the same ids; return the bytes per event."""
    await create_row_table(system)
    before = await connection.fetchval(_SIZE, TABLE)
    lines = [event_lines(1, seed)[0].decode() for seed in range(len(agents))]
    count = await connection.execute(_INSERT_ROWS, agents, lines)
    return float(await connection.fetchval(_SIZE, TABLE) - before) / int(count.split()[-1])


def _state_requests(system: System, agent: UUID, rounds: int) -> list[bytes]:
    token = system.token(agent)
    return [post("/events/stateful", token, stateful(agent, _documents(number))) for number in range(rounds)]


def _documents(number: int) -> list[tuple[str, bytes]]:
    """Return states of about 200 bytes, like an inventory of files; no state is in two requests."""
    return [
        (f"{item:040d}", msgspec.json.encode({"file": {"path": f"/usr/bin/{item}", "hash": "0" * 64}, "size": item}))
        for item in range(number * STATES, (number + 1) * STATES)
    ]


def _single_requests(system: System, agents: Sequence[UUID], count: int) -> dict[str, list[bytes]]:
    used = agents[:count]
    return {
        "fresh_login": [post("/login", "", msgspec.json.encode({"uuid": str(agent), "key": KEY})) for agent in used],
        "fresh_poll": [poll(system.token(agent), 0) for agent in used],
        "fresh_event": event_batches(used, system.token, 1),
    }


async def _send_fresh(system: System, requests: Sequence[bytes]) -> None:
    """Send each request on a fresh connection, as real agents do."""

    async def send(portion: Sequence[bytes]) -> None:
        for request in portion:
            connection = await connect(system)
            await connection.send(request)
            connection.close()

    await asyncio.gather(*(send(requests[start::SENDERS]) for start in range(SENDERS)))


async def _record_sightings(engine: Engine, agents: Sequence[UUID]) -> None:
    for portion in _portions(agents):
        async with engine.begin() as connection:
            await record_sightings(connection, dict.fromkeys(portion, Sighting("192.0.2.1")), "node")


async def _claim(engine: Engine, agents: Sequence[UUID]) -> list[tuple[UUID, UUID]]:
    """Claim the orders of these agents, as their polls do; return the orders with their agents."""
    owned = []
    for portion in _portions(agents):
        async with engine.begin() as connection:
            claimed = await claim_orders(connection, portion, 60)
        owned += [(UUID(claim.order.order_id), claim.agent_id) for claim in claimed]
    return owned


async def _live(engine: Engine, meter: CostMeter, agents: Sequence[UUID]) -> None:
    """Take one order per agent from its submission to the archive."""
    async with meter.measure("order", len(agents), "finished_orders"):
        async with engine.begin() as connection:
            await expand_command(connection, expansion_of(uuid7_at(time.time()), "admin", _command(), 600), 1)
        for portion in _portions(await _claim(engine, agents)):
            endings = [Ending(order_id, agent_id, "success", 0, "done", "{}") for order_id, agent_id in portion]
            async with engine.begin() as connection:
                await finish_orders(connection, endings)
    async with meter.measure("archived_order", len(agents), "archived_orders"), engine.begin() as connection:
        await archive_orders(connection, datetime.now(UTC).date(), len(agents))


def _command() -> NewCommand:
    return msgspec.json.decode(
        f"""{{"source": "Engine", "target": {{"id": "{GROUP}", "type": "group"}}, "timeout": 600,
            "action": {{"name": "restart", "args": {{}}}}}}""",
        type=NewCommand,
    )


def _portions(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    return (items[start : start + AT_ONCE] for start in range(0, len(items), AT_ONCE))


MEASUREMENT = Measurement(
    "footprint",
    (
        Figure("stored_event_bytes", 180, 120, "bytes on disk of a 400-byte event", is_most=True),
        Figure("stored_single_event_vs_row", 1, 0.8, "bytes of a one-event batch / of a row", is_most=True),
    ),
    measure,
)
