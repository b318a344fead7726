"""Hold what the fleet was told against what the database has."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import asyncpg
from sqlalchemy import make_url

_STORED = """
    SELECT (SELECT count(*) FROM agents) AS agents,
           (SELECT count(*) FROM events) AS events,
           (SELECT count(*) FROM quarantined_events) AS quarantined,
           (SELECT count(*) FROM states) AS states,
           (SELECT count(*) FROM finished_orders WHERE status = 'success') AS succeeded,
           (SELECT count(*) FROM finished_orders WHERE status <> 'success') AS failed,
           (SELECT count(*) FROM finished_orders) + (SELECT count(*) FROM orders) AS orders,
           (SELECT count(DISTINCT order_id) FROM
               (SELECT order_id FROM finished_orders UNION ALL SELECT order_id FROM orders) AS o) AS different_orders,
           (SELECT coalesce(sum(orders), 0) FROM commands) AS expanded,
           (SELECT count(*) FROM commands WHERE user_name = 'admin') AS commands,
           (SELECT count(*) FROM commands WHERE user_name = 'admin'
               AND request_id NOT IN (SELECT request_id FROM orders)) AS ended_commands"""


@dataclass(frozen=True)
class Line:
    """What must be there, at least and at most, and what is there."""

    name: str
    least: int
    stored: int
    unsure: int = 0
    must_be_some: bool = True

    @property
    def holds(self) -> bool:
        """Whether it adds up, and something was done at all."""
        is_within = self.least <= self.stored <= self.least + self.unsure
        return is_within and (self.least > 0 or not self.must_be_some)

    def told(self) -> str:
        """Return what was acknowledged, and what may have been stored beside, as its answer never came."""
        return f"{self.least:,}" + (f" to {self.least + self.unsure:,}" if self.unsure else "")


async def reckon(url: str, tally: Mapping[str, int]) -> list[Line]:
    """Compare counts, line by line."""
    connection = await asyncpg.connect(make_url(url).set(drivername="postgresql").render_as_string(hide_password=False))
    try:
        stored = await connection.fetchrow(_STORED)
    finally:
        await connection.close()
    return list(_lines(Counter(tally), stored))


def _lines(told: Counter[str], stored: Mapping[str, int]) -> Iterator[Line]:
    yield Line("agents enrolled", told["agents_acknowledged"], stored["agents"], _unsure(told, "agents"))
    yield Line("events", told["events_acknowledged"], stored["events"], _unsure(told, "events"))
    yield Line("events in quarantine", 0, stored["quarantined"], must_be_some=False)
    states, either_way = told["states_created"] - told["states_deleted"], _unsure(told, "changes")
    yield Line("states created and not deleted", states - either_way, stored["states"], 2 * either_way)
    yield Line("commands", told["commands_acknowledged"], stored["commands"], _unsure(told, "commands"))
    not_seen = told["commands_sent"] - told["commands_ended"]
    yield Line("commands seen to end", told["commands_ended"], stored["ended_commands"], not_seen)
    yield Line("orders that commands came to", stored["expanded"], stored["orders"])
    yield Line("orders, each once, open or ended", stored["different_orders"], stored["orders"])
    yield Line("orders ended by a result", told["orders_ended"], stored["succeeded"], _unsure(told, "reports"))
    yield Line("orders ended otherwise", 0, stored["failed"], must_be_some=False)
    yield Line("files fetched", told["files_fetched"], told["files_fetched"])


def _unsure(told: Counter[str], noun: str) -> int:
    """Return how much was sent and neither acknowledged nor refused: it may be there or not."""
    return told[f"{noun}_sent"] - told[f"{noun}_acknowledged"] - told[f"{noun}_refused"]
