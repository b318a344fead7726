"""Simulate a reconnect storm: agents that reconnect to one worker by the rules of the reference agent."""

import heapq
import random

import msgspec

from comms_api.client.backoff import delay_seconds
from comms_api.http.problems import RETRY_AFTER_SECONDS


class Worker(msgspec.Struct, frozen=True):
    """A worker that serves reconnecting agents one after the other."""

    per_second: float
    waiting_maximum: int = 2_000
    """While this many agents wait, further agents are refused: 503 with Retry-After."""

    refusal_share: float = 0.5
    """The cost of a refusal relative to serving an agent: a refusal needs a TLS connection, too."""


class Storm(msgspec.Struct, frozen=True):
    """The result of a simulation."""

    seconds: float
    """From the start of the outage until the last agent is served."""

    refusals: int
    connections_refused: int


class Outage(msgspec.Struct, frozen=True):
    """An outage, during which no agent is served."""

    seconds: float
    closed_seconds: float
    """For this long, connections are refused. Then the port is open, and connections wait until the server is ready."""


def simulate(agents: int, worker: Worker, outage: Outage) -> Storm:
    """Break the polls of all agents, and let the agents reconnect until each has been served."""
    arrivals = [(delay_seconds(1), 1) for _ in range(agents)]
    heapq.heapify(arrivals)
    free_at, refusals, connections_refused = outage.seconds, 0, 0
    while arrivals:
        at, attempt = heapq.heappop(arrivals)
        if at < outage.closed_seconds:
            connections_refused += 1
            heapq.heappush(arrivals, (at + delay_seconds(attempt + 1), attempt + 1))
            continue
        is_full = (free_at - max(at, outage.seconds)) * worker.per_second > worker.waiting_maximum
        free_at = max(free_at, at) + (worker.refusal_share if is_full else 1.0) / worker.per_second
        if is_full:
            refusals += 1
            retry_after = str(random.randint(*RETRY_AFTER_SECONDS))  # noqa: S311 - spreading, no secret
            heapq.heappush(arrivals, (free_at + delay_seconds(attempt + 1, retry_after), attempt + 1))
    return Storm(free_at, refusals, connections_refused)
