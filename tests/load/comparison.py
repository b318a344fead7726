"""Compare the answers that the fleet received with the database."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import asyncpg
from sqlalchemy import make_url

_STORED = """
    SELECT (SELECT count(*) FROM agents) AS agents,
           (SELECT coalesce(sum(events), 0) FROM event_batches) AS events,
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
    """The required number of rows in the database (`least` to `least + unsure`), and the actual one."""

    name: str
    least: int
    stored: int
    unsure: int = 0
    must_be_some: bool = True

    @property
    def holds(self) -> bool:
        """Whether the number of rows is right, and not 0 where some are required."""
        is_within = self.least <= self.stored <= self.least + self.unsure
        return is_within and (self.least > 0 or not self.must_be_some)

    def acknowledged(self) -> str:
        """Return the acknowledged number, and the maximum if some requests had no answer."""
        return f"{self.least:,}" + (f" to {self.least + self.unsure:,}" if self.unsure else "")


async def compare(url: str, tally: Mapping[str, int]) -> list[Line]:
    """Compare the fleet's counts with the database."""
    connection = await asyncpg.connect(make_url(url).set(drivername="postgresql").render_as_string(hide_password=False))
    try:
        stored = await connection.fetchrow(_STORED)
    finally:
        await connection.close()
    return list(_lines(Counter(tally), stored))


def _lines(counts: Counter[str], stored: Mapping[str, int]) -> Iterator[Line]:
    yield Line("agents enrolled", counts["agents_acknowledged"], stored["agents"], _unsure(counts, "agents"))
    yield Line("events", counts["events_acknowledged"], stored["events"], _unsure(counts, "events"))
    yield Line("events in quarantine", 0, stored["quarantined"], must_be_some=False)
    states, unsure = counts["states_created"] - counts["states_deleted"], _unsure(counts, "changes")
    yield Line("states created and not deleted", states - unsure, stored["states"], 2 * unsure)
    yield Line("commands", counts["commands_acknowledged"], stored["commands"], _unsure(counts, "commands"))
    not_ended = counts["commands_sent"] - counts["commands_ended"]
    yield Line("commands that ended", counts["commands_ended"], stored["ended_commands"], not_ended)
    yield Line("orders of all commands", stored["expanded"], stored["orders"])
    yield Line("distinct orders, open or ended", stored["different_orders"], stored["orders"])
    yield Line("orders ended by a result", counts["orders_ended"], stored["succeeded"], _unsure(counts, "reports"))
    yield Line("orders ended otherwise", 0, stored["failed"], must_be_some=False)
    yield Line("files fetched", counts["files_fetched"], counts["files_fetched"])


def _unsure(counts: Counter[str], noun: str) -> int:
    """Return how many items were sent and neither acknowledged nor refused: the database may or may not have them."""
    return counts[f"{noun}_sent"] - counts[f"{noun}_acknowledged"] - counts[f"{noun}_refused"]
