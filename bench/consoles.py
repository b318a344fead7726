"""The time of the console's pages on large tables, and the cost of open consoles."""

import asyncio
import secrets
import time
from collections.abc import Sequence
from functools import partial
from itertools import cycle, islice
from statistics import median
from uuid import UUID, uuid4

import click

from bench import growth_events, growth_orders
from bench.figures import Effort, Figure, Measured, Measurement
from bench.growth import FLEET, SchemaPair, schema_pair
from bench.load import connect, connect_all, timed
from bench.messages import poll
from bench.polls import allow_descriptors
from bench.system import ADMINISTRATOR, System
from comms_api.console.sessions import SESSION_COOKIE
from comms_api.database.connect import open_engine
from comms_api.settings import Settings
from comms_api.users.service import REFRESH_SECONDS, session_digest
from comms_api.users.store import RefreshToken, insert_refresh_token

EVENTS, ORDERS = growth_events.SIZES[-1], growth_orders.SIZES[-1]
QUICK_SHARE = 0.01
PAUSE_SECONDS = 10.0
"""The time between two rounds of all pages; the overview is read again in each."""

CONSOLES = 50
POLL_SECONDS = 5.0
IDLE_SECONDS, FIRST_SECONDS, LIVE_SECONDS = 30, 10, 120
"""The seconds of the idle system that count, of the first polls that do not count, and of the polls that do.

A live part that takes long is made again each minute (`console/live`), so two minutes contain it twice.
"""

SLOWEST = 8

_DESCRIBE = """
    UPDATE agents SET version = '5.' || n % 12, last_seen_at = now() - n % 20 * interval '10 s',
        node = (SELECT name FROM nodes LIMIT 1), labels = '{"site": "berlin"}',
        host = json_build_object('hostname', 'host-' || n, 'os', json_build_object('name', 'debian', 'version', '12'))
    FROM (SELECT id AS numbered, row_number() OVER () AS n FROM agents) AS numbers WHERE id = numbered"""
_AGENTS = (
    "?name=host", "?name=absent", "?status=active", "?status=disconnected", "?group=fleet", "?version=5.1",
    "?os=debian", "?label=site:berlin", "?in_sync=false", "?clones=suspected", "?hidden=true",
)  # fmt: skip
_EVENTS = ("?group=fleet", "?module=logcollector", "?module=absent", "?contains=error")


async def measure(system: System, effort: Effort) -> Measured:
    """Open all pages in turn, and let many consoles poll their live parts, while polls of agents are held."""
    share = 1.0 if effort.share == 1 else QUICK_SHARE
    allow_descriptors(2 * CONSOLES)
    async with schema_pair(system) as pair:
        started = time.perf_counter()
        acting = await pair.make(growth_orders.GROUP, int(FLEET * max(share, 0.1)))
        await _fill(system, pair, share)
        fill_seconds = time.perf_counter() - started
        held = await connect_all(system, [poll(system.token(agent)) for agent in acting])
        async with system.session() as database:
            request_id = await database.fetchval("SELECT request_id FROM commands ORDER BY request_id DESC LIMIT 1")
        sessions = [await _open_session(system) for _ in range(CONSOLES)]
        pages = await _time_pages(system, sessions[0], _pages(acting[0], request_id), effort.rounds)
        live = await _live_percent(system, sessions, _live_paths(acting[0], request_id))
        for connection, _ in held:
            connection.close()
    slowest = dict(sorted(pages.items(), key=lambda page: -median(page[1]))[:SLOWEST])
    for path, times in slowest.items():
        click.echo(f"{median(times):7.0f} ms, at most {max(times):5.0f}: {path}")
    values = {"console_page_ms": max(map(median, pages.values())), "console_live_core_share": live["all"]}
    return Measured(values, {"fill_seconds": fill_seconds, "held": len(held), "pages_ms": pages, "live_percent": live})


async def _fill(system: System, pair: SchemaPair, share: float) -> None:
    await pair.fill(growth_events.FILLING, int(EVENTS * share) // growth_events.EVENTS_PER_REQUEST)
    await pair.fill(growth_orders.FILLING, int(ORDERS * share))
    async with system.session() as database:
        await database.execute(growth_orders.FILL_COMMANDS, timeout=None)
        await database.execute(growth_orders.FILL_OPEN, pair.fleet[: len(pair.fleet) // 10])
        await database.execute(_DESCRIBE, timeout=None)
        await database.execute("VACUUM ANALYZE")
    await pair.checkpoint()


def _pages(agent: UUID, request_id: UUID) -> list[str]:
    """Return the URLs of all pages, with the filters of long lists."""
    agents = ["/agents", *(f"/agents{query}" for query in _AGENTS)]
    one = [f"/agents/{agent}", f"/agents/{agent}/states", f"/agents/{agent}/orders", f"/agents/{agent}/audit"]
    events = ["/events", f"/events?agent={agent}", *(f"/events{query}" for query in _EVENTS)]
    commands = ["/commands", "/commands?action=absent", "/commands/new"]
    command = [f"/commands/{request_id}{query}" for query in ("", "?status=failure", "?status=pending")]
    orders = [f"/orders{query}" for query in ("", "?status=failure", "?status=pending", "?action=restart")]
    others = ["/groups", "/groups/fleet", "/enrollment", "/nodes", "/users", "/audit", "/account"]
    return ["", *agents, *one, *events, *commands, *command, *orders, *others]


def _live_paths(agent: UUID, request_id: UUID) -> list[str]:
    lists = ["", "/agents", "/commands", "/orders", "/groups", "/groups/fleet", "/nodes", "/enrollment"]
    return [*lists, f"/agents/{agent}", f"/commands/{request_id}"]


async def _open_session(system: System) -> str:
    """Open a session of the administrator by SQL, and return its text."""
    text = secrets.token_urlsafe(32)
    engine = open_engine(system.cluster.url, Settings())
    async with engine.begin() as connection:
        token = RefreshToken(uuid4(), session_digest(text))
        await insert_refresh_token(connection, ADMINISTRATOR, token, REFRESH_SECONDS)
    await engine.dispose()
    return text


def _get(path: str, session: str, *headers: str) -> bytes:
    lines = [f"GET /console{path} HTTP/1.1", "Host: bench", f"Cookie: {SESSION_COOKIE}={session}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


async def _time_pages(system: System, session: str, paths: Sequence[str], rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of each page, round by round."""
    found: dict[str, list[float]] = {path: [] for path in paths}
    for _ in range(rounds):
        connection = await connect(system, system.management_port)  # the server closes connections that are idle
        for path in paths:
            seconds = await timed(partial(connection.send, _get(path, session)))
            found[path].append(seconds * 1000)
        connection.close()
        await asyncio.sleep(PAUSE_SECONDS)
    return found


async def _live_percent(system: System, sessions: Sequence[str], paths: Sequence[str]) -> dict[str, float]:
    """Return the CPU in percent of a core that the consoles' polls cost, beyond the idle system's."""
    requests = [
        _get(path, session, "HX-Request: true", "X-Poll: unattended")
        for session, path in zip(sessions, islice(cycle(paths), len(sessions)), strict=True)
    ]
    idle = await _cpu_of(system, IDLE_SECONDS)
    async with asyncio.TaskGroup() as group:
        for number, request in enumerate(requests):
            group.create_task(_poll(system, request, number / len(requests) * POLL_SECONDS))
        await asyncio.sleep(FIRST_SECONDS)
        busy = await _cpu_of(system, LIVE_SECONDS)
    parts = {name: (busy[name] - idle[name]) / 10_000 for name in ("server", "postgresql")}
    return {"all": sum(parts.values()), **parts}


async def _cpu_of(system: System, seconds: int) -> dict[str, float]:
    """Return the CPU microseconds for each of the next seconds."""
    before = system.cpu()
    await asyncio.sleep(seconds)
    return system.cpu_since(before, seconds)


async def _poll(system: System, request: bytes, delay: float) -> None:
    await asyncio.sleep(delay)
    connection = await connect(system, system.management_port)
    for _ in range(int((FIRST_SECONDS + LIVE_SECONDS) / POLL_SECONDS)):
        started = time.perf_counter()
        await connection.send(request)
        await asyncio.sleep(max(0.0, POLL_SECONDS - (time.perf_counter() - started)))
    connection.close()


MEASUREMENT = Measurement(
    "consoles",
    (
        Figure("console_page_ms", 300, 100, "milliseconds, the slowest page", is_most=True),
        Figure("console_live_core_share", 5, 2, "percent of a core, 50 consoles", is_most=True),
    ),
    measure,
)
