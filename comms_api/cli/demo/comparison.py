"""Compare the agents' own counters with the database."""

from collections.abc import Iterator, Mapping

import asyncpg
import msgspec
from rich.table import Table


class Counts(msgspec.Struct, frozen=True):
    """The counts of one agent, from the agent or from the database."""

    events: int
    states: int
    orders: int
    results: int


async def count_in_database(url: str) -> Mapping[str, Counts]:
    """Return the counts in the database, by the agents' names."""
    connection = await asyncpg.connect(url.replace("postgresql+asyncpg://", "postgresql://"))
    try:
        rows = await connection.fetch("""
            SELECT name, (SELECT coalesce(sum(events), 0) FROM event_batches WHERE agent_id = agents.id) AS events,
                (SELECT count(*) FROM states WHERE agent_id = agents.id) AS states,
                (SELECT count(*) FROM orders WHERE agent_id = agents.id AND attempt > 0)
                    + (SELECT count(*) FROM finished_orders WHERE agent_id = agents.id AND attempt > 0) AS orders,
                (SELECT count(*) FROM finished_orders WHERE agent_id = agents.id AND status = 'success') AS results
            FROM agents""")
    finally:
        await connection.close()
    return {row["name"]: Counts(row["events"], row["states"], row["orders"], row["results"]) for row in rows}


def comparison_table(counted: Mapping[str, Counts], stored: Mapping[str, Counts]) -> Table:
    """Return a table with an equation for each agent and count."""
    table = Table("agent", title="counted by the agent = stored in the database")
    for column in ("events sent = stored", "states kept = stored", "orders received = offered", "results = successes"):
        table.add_column(column, justify="right")
    for name, counts in counted.items():
        pairs = zip(_values(counts), _values(stored.get(name, Counts(0, 0, 0, 0))), strict=True)
        table.add_row(name, *(f"{a} = {b}" if a == b else f"[red]{a} ≠ {b}[/]" for a, b in pairs))
    return table


def find_differences(counted: Mapping[str, Counts], stored: Mapping[str, Counts]) -> Iterator[str]:
    """Yield a sentence for each difference, and for each agent that sent nothing."""
    if counted.keys() != stored.keys():
        yield f"the agents are {sorted(counted)}, but {sorted(stored)} in the database"
        return
    for name, counts in counted.items():
        if counts != stored[name]:
            yield f"{name} counted {counts}, but the database has {stored[name]}"
        if not (counts.events and counts.states):
            yield f"{name} sent no events or no states"


def _values(counts: Counts) -> tuple[int, ...]:
    return msgspec.structs.astuple(counts)
