"""The time from the acknowledgement of events until a follower has them, while the fleet sends."""

import asyncio
import time
from urllib.parse import quote
from uuid import UUID

import msgspec

from bench.figures import Effort, Figure, Measured, Measurement, percentile
from bench.load import connect
from bench.messages import event_batches, get, post, stateless
from bench.system import System

SENDERS = 20
PAUSE_SECONDS = 0.2
EVENTS_PER_REQUEST = 20
PROBES = 300
PROBE_PAUSE_SECONDS = 0.05
LIMIT = 1000
WAIT_SECONDS = 20


class _Item(msgspec.Struct):
    agent_id: UUID
    event: msgspec.Raw


class _Tail(msgspec.Struct):
    items: list[_Item]
    next: str


class _Probe(msgspec.Struct):
    probe: int


class Follower:
    """Follows the events of the fleet, and notes when those of the agent `prober` arrive."""

    def __init__(self, system: System, prober: UUID) -> None:
        self._system = system
        self._prober = prober
        self.has_begun = asyncio.Event()
        self.arrivals: dict[int, asyncio.Future[float]] = {}
        """The time at which each probe arrives."""

        self.events = 0

    async def run(self) -> None:
        """Follow until cancelled."""
        connection = await connect(self._system, self._system.management_port)
        after = ""
        while True:
            path = f"/events/tail?limit={LIMIT}" + (f"&wait={WAIT_SECONDS}&after={quote(after)}" if after else "")
            body = await connection.send(get(path, self._system.administrator_token()))
            now, tail = time.perf_counter(), msgspec.json.decode(body, type=_Tail)
            self.has_begun.set()
            after = tail.next
            self.events += len(tail.items)
            for item in tail.items:
                if item.agent_id == self._prober:
                    self.arrivals[msgspec.json.decode(item.event, type=_Probe).probe].set_result(now)


async def measure(system: System, effort: Effort) -> Measured:
    """Let agents send moderately, and one of them probes, whose arrival at a follower is timed."""
    prober, *senders = await system.enroll(1 + SENDERS, "tail")
    follower = Follower(system, prober)
    requests = event_batches(senders, system.token, EVENTS_PER_REQUEST)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(follower.run())]
        await follower.has_begun.wait()
        tasks += [group.create_task(_send(system, request)) for request in requests]
        lags = await _probe(system, prober, follower, effort.of(PROBES))
        for task in tasks:
            task.cancel()
    raw = {"followed_events": follower.events, "p50_ms": percentile(lags, 0.5), "lags_ms": lags}
    return Measured({"tail_lag_p99_ms": percentile(lags, 0.99)}, raw)


async def _send(system: System, request: bytes) -> None:
    connection = await connect(system)
    while True:
        await connection.send(request)
        await asyncio.sleep(PAUSE_SECONDS)


async def _probe(system: System, prober: UUID, follower: Follower, count: int) -> list[float]:
    """Send one numbered event after the other; return the milliseconds until the follower had each."""
    connection, token, lags = await connect(system), system.token(prober), []
    for number in range(count):
        arrival = follower.arrivals[number] = asyncio.get_running_loop().create_future()
        event = msgspec.json.encode(_Probe(number))
        await connection.send(post("/events/stateless", token, stateless(prober, [event])))
        acknowledged_at = time.perf_counter()
        lags.append(max(0.0, await arrival - acknowledged_at) * 1000)
        await asyncio.sleep(PROBE_PAUSE_SECONDS)
    connection.close()
    return lags


MEASUREMENT = Measurement(
    "tail_lag",
    (Figure("tail_lag_p99_ms", 500, 100, "ms from the acknowledgement to a follower", is_most=True),),
    measure,
)
