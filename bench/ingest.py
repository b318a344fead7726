"""What a batch of events or states costs, against what PostgreSQL alone can do with the same rows."""

import asyncio
import statistics
import time
from collections.abc import Sequence
from uuid import UUID

import msgspec
import zstandard

from bench.load import batch, drive, event_lines, post
from bench.system import System
from comms_api.database.embedded import DATABASE, ROLE
from comms_api.database.embedded_home import binary
from comms_api.database.uuid7 import uuid7_at

CONNECTIONS = 32
EVENTS_PER_REQUEST = 100
ROUNDS = 3


async def measure_stateless(system: System) -> dict[str, float]:
    """Return events/s over HTTPS, plain and zstd, and by psql's copy of the same events, in alternating rounds."""
    agents = await system.enroll(CONNECTIONS, "stateless")
    lines = event_lines(EVENTS_PER_REQUEST)
    plain = [post("/events/stateless", system.token(agent), batch(agent, lines)) for agent in agents]
    compress = zstandard.ZstdCompressor(1).compress
    packed = [
        post("/events/stateless", system.token(agent), compress(batch(agent, lines)), "Content-Encoding: zstd")
        for agent in agents
    ]
    repeats = 60
    events = CONNECTIONS * repeats * EVENTS_PER_REQUEST
    await drive(system, lambda number: [plain[number]] * 5, CONNECTIONS)
    rates: dict[str, list[float]] = {"copy": [], "plain": [], "zstd": []}
    for _ in range(ROUNDS):
        rates["copy"].append(events / await _copy(system, agents[0], lines, events))
        rates["plain"].append(events / await drive(system, lambda number: [plain[number]] * repeats, CONNECTIONS))
        rates["zstd"].append(events / await drive(system, lambda number: [packed[number]] * repeats, CONNECTIONS))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "stateless_vs_copy": medians["plain"] / medians["copy"],
        "zstd_vs_plain": medians["zstd"] / medians["plain"],
        **{f"{name}_events_per_second": rate for name, rate in medians.items()},
    }


async def _copy(system: System, agent: UUID, lines: Sequence[bytes], events: int) -> float:
    """Return the seconds that `psql` takes to copy as many events into the same table."""
    file = system.folder / "events.tsv"
    first = uuid7_at(time.time()).int
    with file.open("w") as output:
        for number in range(events):
            payload = lines[number % len(lines)].decode().replace("\\", "\\\\")
            output.write(f"{UUID(int=first + number)}\t{agent}\tlogcollector\tfile\t{payload}\n")
    statement = f"\\copy events from '{file}'"
    host = str(system.cluster.socket_dir)
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        str(binary("psql")), "-q", "-h", host, "-p", "5432", "-U", ROLE, "-d", DATABASE, "-c", statement
    )
    if await process.wait():
        raise RuntimeError("psql failed")
    seconds = time.perf_counter() - started
    file.unlink()
    return seconds


def _document(number: int, marker: int) -> bytes:
    path = f"/usr/share/doc/package-{number}/changelog.gz"
    return msgspec.json.encode({"file": {"path": path, "size": number, "hash": "0" * 64}, "marker": marker})


async def measure_stateful(system: System) -> dict[str, float]:
    """Return upserted states/s over HTTPS, half of them new, and by bare INSERT … ON CONFLICT of the same rows."""
    agents = await system.enroll(CONNECTIONS * 2, "stateful")
    rates: dict[str, list[float]] = {"bare": [], "http": []}
    for round_ in range(ROUNDS):
        rates["bare"].append(await _bare_upserts(system, agents[CONNECTIONS:], round_))
        rates["http"].append(await _http_upserts(system, agents[:CONNECTIONS], round_))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "stateful_vs_insert": medians["http"] / medians["bare"],
        **{f"{name}_states_per_second": rate for name, rate in medians.items()},
    }


STATES_PER_REQUEST = 100
REQUESTS = 20


def _numbers(round_: int, request: int) -> range:
    """Return the states of a request: each overlaps the one before by half, so half of them exist."""
    start = (round_ * REQUESTS + request) * STATES_PER_REQUEST // 2
    return range(start, start + STATES_PER_REQUEST)


async def _http_upserts(system: System, agents: Sequence[UUID], round_: int) -> float:
    def requests(number: int) -> list[bytes]:
        agent = agents[number]
        head = msgspec.json.encode({"agent": {"id": str(agent), "name": "bench"}})
        return [
            post("/events/stateful", system.token(agent), b"\n".join((head, *_items(round_, request))))
            for request in range(REQUESTS)
        ]

    prepared = [requests(number) for number in range(CONNECTIONS)]
    seconds = await drive(system, prepared.__getitem__, CONNECTIONS)
    return CONNECTIONS * REQUESTS * STATES_PER_REQUEST / seconds


def _items(round_: int, request: int) -> list[bytes]:
    return [
        line
        for number in _numbers(round_, request)
        for line in (
            b'{"id":"%040d","module":"fim","collector":"file","operation":"update"}' % number,
            _document(number, request),
        )
    ]


_UPSERT = """
    INSERT INTO states (agent_id, module, collector, id, data)
    SELECT agent, 'fim', 'file', id, data::json FROM unnest($1::uuid[], $2::text[], $3::text[]) AS new (agent, id, data)
    ON CONFLICT (agent_id, module, collector, id) DO UPDATE SET data = excluded.data, updated_at = now()"""


async def _bare_upserts(system: System, agents: Sequence[UUID], round_: int) -> float:
    connection = await system.connect()
    groups = []
    for request in range(REQUESTS):
        numbers = _numbers(round_, request)
        owners = [agent for agent in agents for _ in numbers]
        ids = [f"{number:040d}" for _ in agents for number in numbers]
        documents = [_document(number, request).decode() for _ in agents for number in numbers]
        groups.append((owners, ids, documents))
    started = time.perf_counter()
    for group in groups:
        await connection.execute(_UPSERT, *group)
    seconds = time.perf_counter() - started
    await connection.close()
    return CONNECTIONS * REQUESTS * STATES_PER_REQUEST / seconds


async def measure_one_event(system: System) -> dict[str, float]:
    """Return one-event requests per second of the server's CPU."""
    agents = await system.enroll(CONNECTIONS, "one-event")
    requests = [post("/events/stateless", system.token(agent), batch(agent, event_lines(1))) for agent in agents]
    repeats = 200
    await drive(system, lambda number: [requests[number]] * 10, CONNECTIONS)
    before = system.cpu_seconds()
    seconds = await drive(system, lambda number: [requests[number]] * repeats, CONNECTIONS)
    total = CONNECTIONS * repeats
    return {
        "one_event_rps_per_core": total / (system.cpu_seconds() - before),
        "one_event_requests_per_second": total / seconds,
    }
