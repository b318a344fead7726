"""Events searched per second of CPU, against `SELECT … LIKE` on a table with a row per event.

One busy agent and a fleet have sent events for an hour; the searched text is in none of them, so every event is read.
"""

import statistics
from collections.abc import Awaitable, Callable
from urllib.parse import urlencode
from uuid import UUID

import msgspec

from bench.figures import Effort, Figure, Measured, Measurement
from bench.load import connect, drive
from bench.messages import event_lines, get, post, stateless
from bench.row_table import TABLE, copy_rows, create_row_table, write_rows
from bench.system import System

FLEET = 100
EVENTS_PER_REQUEST = 100
REQUESTS = 20
BUSY_REQUESTS = 400
"""Requests per agent; the busy agent sends 11 events a second for an hour."""

PASSES = 5
"""The number of searches in a round."""

ABSENT = "zzzz in no event"
_LIKE = f"SELECT count(*) FROM {TABLE} WHERE event::text LIKE '%{ABSENT}%'"


class _Page(msgspec.Struct):
    items: list[msgspec.Raw]
    next: str | None


async def measure(system: System, effort: Effort) -> Measured:
    """Alternate searches of the fleet's and of the busy agent's events by the server and by SQL."""
    busy, *others = await system.enroll(1 + FLEET, "search")
    counts = {busy: effort.of(BUSY_REQUESTS)} | dict.fromkeys(others, effort.of(REQUESTS))
    batches = {agent: event_lines(EVENTS_PER_REQUEST, seed) for seed, agent in enumerate(counts)}
    sent = [(agent, batches[agent]) for agent, count in counts.items() for _ in range(count)]
    await _store(system, sent, counts)
    events = {"fleet": len(sent) * EVENTS_PER_REQUEST, "agent": counts[busy] * EVENTS_PER_REQUEST}
    rounds: dict[str, list[dict[str, float]]] = {}
    for _ in range(effort.rounds):
        for name, agent in (("fleet", None), ("agent", busy)):
            for way, search in (("batches", _search), ("rows", _search_rows)):
                cost = await _cost(system, search, agent, events[name])
                rounds.setdefault(f"{name}_{way}", []).append(cost)
    rates = {name: 1e6 / statistics.median(cost["cpu_us"] for cost in costs) for name, costs in rounds.items()}
    values = {"search_events_per_core_second": min(rates["fleet_batches"], rates["agent_batches"])}
    return Measured(values, {"events": events, "events_per_core_second": rates, "rounds": rounds})


async def _store(system: System, sent: list[tuple[UUID, list[bytes]]], counts: dict[UUID, int]) -> None:
    """Store the same events as batches and as rows."""
    lines = dict(sent)
    requests = {
        agent: post("/events/stateless", system.token(agent), stateless(agent, lines[agent])) for agent in counts
    }
    await drive(system, [[requests[agent]] * count for agent, count in counts.items()])
    await create_row_table(system)
    await copy_rows(system, write_rows(system.folder / "rows.tsv", sent))
    async with system.session() as connection:
        await connection.execute(f"VACUUM ANALYZE {TABLE}")
        await connection.execute("VACUUM ANALYZE event_batches")


async def _cost(
    system: System, search: Callable[[System, UUID | None], Awaitable[None]], agent: UUID | None, events: int
) -> dict[str, float]:
    await search(system, agent)  # warm up
    before = system.cpu()
    await search(system, agent)
    cpu = system.cpu_since(before, events * PASSES)
    return {**cpu, "cpu_us": cpu["server"] + cpu["postgresql"]}


async def _search(system: System, agent: UUID | None) -> None:
    """Search by the server, page by page."""
    connection = await connect(system, system.management_port)
    searched, after = 0, None
    while searched < PASSES:
        query = {"contains": ABSENT, "agent_id": agent, "limit": 1000, "after": after}
        path = f"/events?{urlencode({name: value for name, value in query.items() if value is not None})}"
        body = await connection.send(get(path, system.administrator_token()))
        after = msgspec.json.decode(body, type=_Page).next
        searched += after is None
    connection.close()


async def _search_rows(system: System, agent: UUID | None) -> None:
    async with system.session() as connection:
        for _ in range(PASSES):
            await connection.fetchval(_LIKE if agent is None else f"{_LIKE} AND agent_id = '{agent}'")


MEASUREMENT = Measurement(
    "search",
    (Figure("search_events_per_core_second", 500_000, 2_000_000, "searched events per second of CPU"),),
    measure,
)
