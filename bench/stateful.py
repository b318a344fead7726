"""Upserted states per second over HTTPS, half of them new, compared with a bare INSERT … ON CONFLICT."""

import time
from collections.abc import Sequence
from uuid import UUID

import msgspec

from bench.figures import Effort, Figure, Measured, Measurement, Rates, medians
from bench.load import drive
from bench.messages import post, stateful
from bench.system import System

STATES_PER_REQUEST = 100
AGENTS = 50
"""One request of each agent has the 5,000 rows of a bare statement."""

REQUESTS = 12
"""Requests per agent and round."""


async def measure(system: System, effort: Effort) -> Measured:
    """Alternate the bare statement and the server, each with different agents."""
    agents = await system.enroll(AGENTS * 2, "stateful")
    requests = max(4, effort.of(REQUESTS))
    rates: Rates = {"bare": [], "http": []}
    cpu = {}
    await _bare_rate(system, agents[AGENTS:], range(1))
    await _http_rate(system, agents[:AGENTS], range(1))
    for round_ in range(effort.rounds):
        numbers = range(1 + round_ * requests, 1 + (round_ + 1) * requests)
        rates["bare"].append(await _bare_rate(system, agents[AGENTS:], numbers))
        before = system.cpu()
        rates["http"].append(await _http_rate(system, agents[:AGENTS], numbers))
        cpu = system.cpu_since(before, len(numbers) * AGENTS * STATES_PER_REQUEST)
    middle = medians(rates)
    raw = {"states_per_second": rates, "medians": middle, "cpu_us_per_state": cpu}
    return Measured({"stateful_vs_insert": middle["http"] / middle["bare"]}, raw)


def _documents(request: int) -> list[tuple[str, bytes]]:
    """Return the states of a request; its first half is the second half of the request before."""
    start = request * STATES_PER_REQUEST // 2
    return [(f"{number:040d}", _document(number, request)) for number in range(start, start + STATES_PER_REQUEST)]


def _document(number: int, marker: int) -> bytes:
    path = f"/usr/share/doc/package-{number}/changelog.gz"
    return msgspec.json.encode({"file": {"path": path, "size": number, "hash": "0" * 64}, "marker": marker})


async def _http_rate(system: System, agents: Sequence[UUID], numbers: range) -> float:
    encoded = [
        [post("/events/stateful", system.token(agent), stateful(agent, _documents(number))) for number in numbers]
        for agent in agents
    ]
    await system.checkpoint()
    return len(numbers) * AGENTS * STATES_PER_REQUEST / await drive(system, encoded)


_UPSERT = """
    INSERT INTO states (agent_id, module, collector, id, data)
    SELECT agent, 'fim', 'file', id, data::json FROM unnest($1::uuid[], $2::text[], $3::text[]) AS new (agent, id, data)
    ON CONFLICT (agent_id, module, collector, id) DO UPDATE SET data = excluded.data, updated_at = now()"""


async def _bare_rate(system: System, agents: Sequence[UUID], numbers: range) -> float:
    groups = [_columns(agents, number) for number in numbers]
    await system.checkpoint()
    async with system.session() as connection:
        await connection.execute("SELECT 1")
        started = time.perf_counter()
        for group in groups:
            await connection.execute(_UPSERT, *group)
        seconds = time.perf_counter() - started
    return len(numbers) * AGENTS * STATES_PER_REQUEST / seconds


def _columns(agents: Sequence[UUID], number: int) -> tuple[list[UUID], list[str], list[str]]:
    documents = _documents(number)
    owners = [agent for agent in agents for _ in documents]
    return owners, [id_ for id_, _ in documents] * len(agents), [text.decode() for _, text in documents] * len(agents)


MEASUREMENT = Measurement("stateful", (Figure("stateful_vs_insert", 0.6, 0.9, "ratio"),), measure)
