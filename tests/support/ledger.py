"""The requests of a simulated fleet, and the acknowledgements of the server."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from uuid import UUID

from support.events import stored_lines
from support.raw import Answer

RETRIABLE = {401, 429, 503}
STORED = {
    "states": "SELECT data ->> 'key' FROM states WHERE data ->> 'key' IS NOT NULL",
    "orders": "SELECT order_id::text FROM orders UNION ALL SELECT order_id::text FROM finished_orders",
    "results": "SELECT order_id::text FROM finished_orders WHERE status = 'success'",
}
"""Select the items of each kind but events."""


@dataclass
class Tally:
    """The requests of one kind by one agent, and their answers. Times are of the monotonic clock."""

    agent_id: UUID | None
    kind: str
    acknowledged: dict[str, float] = field(default_factory=dict)
    """The time of each item's acknowledgement, oldest first."""
    answered: list[float] = field(default_factory=list)
    """The time of each request's acknowledgement, oldest first."""
    refused: Counter[str] = field(default_factory=Counter)
    connections_lost: int = 0

    def acknowledge(self, items: Iterable[str]) -> None:
        """Note that a request with these items was acknowledged."""
        self.answered.append(time.monotonic())
        self.acknowledged |= dict.fromkeys(items, self.answered[-1])

    def refuse(self, answer: Answer) -> None:
        """Count a refusal after which the request may be sent again; any other answer is a failure."""
        assert answer.status in RETRIABLE, answer
        retry = "with" if int(answer.headers.get("retry-after", 0)) >= 1 else "without"
        self.refused[f"{answer.status} {retry} Retry-After"] += 1

    def is_answered_since(self, moment: float) -> bool:
        return bool(self.answered) and self.answered[-1] > moment

    def longest_pause(self, since: float) -> float:
        """Return the longest time without an acknowledgement from a moment until now."""
        times = [at for at in self.answered.copy() if at > since]
        return max(after - before for before, after in pairwise([since, *times, time.monotonic()]))


@dataclass
class Ledger:
    """The tallies of a fleet. The fleet's thread writes them; other threads may read them at any time."""

    tallies: list[Tally] = field(default_factory=list)
    offered: Counter[str] = field(default_factory=Counter)
    """The number of times that each order was received."""
    ended: Counter[str] = field(default_factory=Counter)
    """The number of times that the server answered that a report ended the order."""

    def open(self, agent_id: UUID | None, kind: str) -> Tally:
        self.tallies.append(Tally(agent_id, kind))
        return self.tallies[-1]

    def of(self, kind: str) -> list[Tally]:
        return [tally for tally in self.tallies if tally.kind == kind]

    def acknowledged(self, kind: str) -> set[str]:
        return {item for tally in self.of(kind) for item in tally.acknowledged}

    def refused(self) -> Counter[str]:
        return sum((tally.refused for tally in self.tallies), Counter[str]())

    def connections_lost(self) -> int:
        return sum(tally.connections_lost for tally in self.tallies)

    def is_answered_since(self, moment: float) -> bool:
        """Return whether every agent had a request of every kind acknowledged after a moment."""
        return all(tally.is_answered_since(moment) for tally in self.tallies)

    def first_answers(self, moment: float) -> dict[UUID, float]:
        """Return how long after a moment each agent had its first acknowledgement; an agent without one is missing."""
        first: dict[UUID, float] = {}
        for tally in self.tallies:
            after = next((at - moment for at in tally.answered if at > moment), None)
            if tally.agent_id is not None and after is not None:
                first[tally.agent_id] = min(after, first.get(tally.agent_id, after))
        return first

    def longest_pause(self, since: float) -> float:
        return max(tally.longest_pause(since) for tally in self.tallies)

    def report(self, since: float) -> str:
        """Return a line for each kind; pauses count from a moment on."""
        lines = []
        for kind in dict.fromkeys(tally.kind for tally in self.tallies):
            tallies = self.of(kind)
            refused = sum((tally.refused for tally in tallies), Counter[str]())
            lines.append(
                f"{kind:8} {sum(len(tally.answered) for tally in tallies):6} requests and "
                f"{len(self.acknowledged(kind)):6} items acknowledged, refused: {dict(refused) or 'none'}, "
                f"connections lost: {sum(tally.connections_lost for tally in tallies)}, "
                f"longest pause {max(tally.longest_pause(since) for tally in tallies):.2f} s"
            )
        return "\n".join(lines)


def stored_items(query: Callable[[str], list[Any]]) -> dict[str, Counter[str]]:
    """Return how often the database has each item, by kind."""
    events = Counter(json.loads(line)["key"] for line in stored_lines(query))
    return {"events": events} | {
        kind: Counter(row[0] for row in query(statement)) for kind, statement in STORED.items()
    }


def assert_all_are_stored_once(ledger: Ledger, stored: dict[str, Counter[str]]) -> None:
    """Check that every acknowledged item is stored, and none twice; print how many there are of each kind."""
    for kind, items in stored.items():
        acknowledged = ledger.acknowledged(kind)
        lost, repeated = acknowledged - items.keys(), sum(times > 1 for times in items.values())
        print(f"{kind:8} {len(acknowledged)} acknowledged, {len(items)} stored, {repeated} repeated, {len(lost)} lost")
        assert not lost, kind
        assert not repeated, kind
