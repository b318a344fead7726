"""Hold what the fleet was told against what the database has."""

from collections.abc import Mapping
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
           (SELECT count(*) FROM commands WHERE user_name = 'admin') AS commands"""


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
    unsure_events, unsure_changes = (
        tally.get(f"{noun}_sent", 0) - tally.get(f"{noun}_acknowledged", 0) - tally.get(f"{noun}_refused", 0)
        for noun in ("events", "changes")
    )
    states = tally.get("states_created", 0) - tally.get("states_deleted", 0)
    return [
        Line("agents enrolled", tally.get("agents_enrolled", 0), stored["agents"]),
        Line("events", tally.get("events_acknowledged", 0), stored["events"], unsure_events),
        Line("events in quarantine", 0, stored["quarantined"], must_be_some=False),
        Line("states created and not deleted", states, stored["states"], unsure_changes),
        Line("commands of the operator", tally.get("commands_submitted", 0), stored["commands"], unsure=1),
        Line("commands that the operator saw end", tally.get("commands_ended", 0), tally.get("commands_ended", 0)),
        Line("orders, each once, open or ended", stored["expanded"], stored["orders"]),
        Line("orders, different ones", stored["different_orders"], stored["orders"]),
        Line("orders ended by a result", tally.get("orders_ended", 0), stored["succeeded"]),
        Line("orders ended otherwise", 0, stored["failed"], must_be_some=False),
        Line("files fetched", tally.get("files_fetched", 0), tally.get("files_fetched", 0)),
    ]
