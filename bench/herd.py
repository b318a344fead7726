"""Kill and restart the server while 10,000 polls are held; measure how long until all poll again, and their errors."""

import asyncio
import time
from collections import Counter
from signal import SIGKILL

import msgspec

from bench.figures import Effort, Figure, Measured, Measurement
from bench.load import Connection, Refusal, connect, connect_all
from bench.messages import poll, submit
from bench.polls import SPARE_DESCRIPTORS, allow_descriptors
from bench.system import System
from comms_api.client.backoff import delay_seconds
from comms_api.protocol import Orders

AGENTS = 10_000
QUICK_AGENTS = 1_000
PATIENCE_SECONDS = 300.0
LOOK_SECONDS = 0.25
HELD_SECONDS = 2.0
GROUP = "herd"
BROKEN = ConnectionError.__name__
ALLOWED = ("503 with Retry-After", ConnectionRefusedError.__name__)
"""The refusals that agents may see; the second one while the server is down."""

_SEEN = "SELECT count(*) FROM agents WHERE last_seen_at > $1"


class Herd:
    """Agents that poll again after every failure, and counts of these failures."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.seen: Counter[str] = Counter()

    async def poll_until_order(self, request: bytes, held: "tuple[Connection, asyncio.Future[bytes]]") -> bytes:
        """Poll until an order arrives, and return that answer."""
        connection, answer = held
        attempt = 0
        while True:
            try:
                body = await answer
            except (Refusal, OSError) as failure:
                attempt += 1
                connection.close()
                connection, answer = await self._poll_again(request, attempt, failure)
            else:
                connection.close()
                return body

    async def _poll_again(
        self, request: bytes, attempt: int, failure: Exception
    ) -> "tuple[Connection, asyncio.Future[bytes]]":
        """Wait as the reference agent does, and connect until that succeeds."""
        while True:
            self.seen[failure_name(failure)] += 1
            await asyncio.sleep(delay_seconds(attempt, getattr(failure, "retry_after", None)))
            try:
                connection = await connect(self._system)
                return connection, connection.send(request)
            except OSError as error:
                attempt, failure = attempt + 1, error


def failure_name(failure: Exception) -> str:
    """Return the kind of a failure."""
    if isinstance(failure, Refusal):
        return f"{failure.status} with Retry-After" if failure.retry_after else str(failure.status)
    return type(failure).__name__


async def measure(system: System, effort: Effort) -> Measured:
    """Hold polls, restart the server, wait until it has seen every agent; a command checks that all of them poll."""
    count = min(AGENTS if effort.share == 1 else QUICK_AGENTS, allow_descriptors(AGENTS) - SPARE_DESCRIPTORS)
    agents = await system.enroll(count, GROUP)
    requests = [poll(system.token(agent)) for agent in agents]
    held = await connect_all(system, requests)
    await asyncio.sleep(HELD_SECONDS)
    herd = Herd(system)
    async with asyncio.TaskGroup() as group:
        answers = [group.create_task(herd.poll_until_order(*agent)) for agent in zip(requests, held, strict=True)]
        raw = await _kill_and_restart(system, count)
        await asyncio.sleep(HELD_SECONDS)
        started = time.perf_counter()
        await _submit(system)
    raw["wake_seconds"] = time.perf_counter() - started
    if any(len(msgspec.json.decode(task.result(), type=Orders).commands) != 1 for task in answers):
        raise RuntimeError("an agent did not get its one order")
    herd.seen[BROKEN] -= count  # each poll breaks once, when the server dies
    errors = sum(times for name, times in herd.seen.items() if name not in ALLOWED)
    values = {"herd_seconds": raw["seconds_since_death"], "herd_errors": float(errors)}
    return Measured(values, {"agents": count, "seen_by_agents": dict(herd.seen), **raw})


async def _kill_and_restart(system: System, count: int) -> dict[str, float]:
    """Return the seconds from the kill, and from the restart, until the server has seen all agents."""
    died = time.perf_counter()
    await system.stop(SIGKILL)
    async with system.session() as connection:
        dead_at = await connection.fetchval("SELECT now()")
        await system.restart()
        restarted = time.perf_counter()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await connection.fetchval(_SEEN, dead_at) < count:  # noqa: ASYNC110 - the database sends no event
                await asyncio.sleep(LOOK_SECONDS)
    now = time.perf_counter()
    return {"seconds_since_up": now - restarted, "seconds_since_death": now - died}


async def _submit(system: System) -> None:
    management = await connect(system, system.management_port)
    await management.send(submit(system.administrator_token(), GROUP, "group"))
    management.close()


MEASUREMENT = Measurement(
    "herd",
    (
        Figure("herd_seconds", 60, 30, "seconds from the kill until all poll again", is_most=True),
        Figure("herd_errors", 0, 0, "answers other than 503 with Retry-After", is_most=True),
    ),
    measure,
)
