"""A reconnect storm in simulation: agents that come back by the reference agent's own rules, to one worker."""

import heapq
import random

import msgspec

from comms_api.client.backoff import delay_seconds
from comms_api.http.problems import RETRY_AFTER_SECONDS


class Worker(msgspec.Struct, frozen=True):
    """What takes agents back, one after the other."""

    per_second: float
    waiting_maximum: int = 2_000
    """Who comes when so many wait is refused: 503 with Retry-After."""

    refusal_share: float = 0.5
    """What a refusal costs of what an agent costs: a TLS connection all the same."""


class Storm(msgspec.Struct, frozen=True):
    """How a storm went."""

    seconds: float
    """From the outage's beginning until the last agent was back."""

    refusals: int
    connections_refused: int


class Outage(msgspec.Struct, frozen=True):
    """How long nobody is served."""

    seconds: float
    closed_seconds: float
    """So long connections are refused; from then on, the server's port is open and they wait for it to be ready."""


def simulate(agents: int, worker: Worker, outage: Outage) -> Storm:
    """Let all agents lose their polls at once, and come back until each has been served."""
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
            asked = str(random.randint(*RETRY_AFTER_SECONDS))  # noqa: S311 - spreading, no secret
            heapq.heappush(arrivals, (free_at + delay_seconds(attempt + 1, asked), attempt + 1))
    return Storm(free_at, refusals, connections_refused)
