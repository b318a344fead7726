"""The statements of events and of the quarantine."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select, text

from comms_api.database.connection import Connection, Row
from comms_api.database.pages import Page, PageRequest, equal, fetch_page
from comms_api.database.schema import events, quarantined_events
from comms_api.database.uuid7 import uuid7_time
from comms_api.events.copy_format import COLUMNS, copy_stream
from comms_api.events.model import Event, QuarantinedEvent, QuarantinedRow

_COLUMNS = ", ".join(COLUMNS)


async def copy_events(connection: Connection, rows: Sequence[bytes]) -> None:
    """Append encoded rows by one binary COPY, which is its own transaction."""
    await connection.copy(events.name, COLUMNS, copy_stream(rows))


_CREATE_ARRIVED = text("CREATE TEMPORARY TABLE arrived (LIKE events) ON COMMIT DROP")
_INSERT_ARRIVED = text(f"INSERT INTO events ({_COLUMNS}) SELECT {_COLUMNS} FROM arrived ON CONFLICT DO NOTHING")


async def merge_events(connection: Connection, rows: Sequence[bytes]) -> None:
    """Append the encoded rows whose ids are new, in a transaction."""
    async with connection.transaction():
        await connection.execute(_CREATE_ARRIVED)
        await connection.copy("arrived", COLUMNS, copy_stream(rows))
        await connection.execute(_INSERT_ARRIVED)


_INSERT_QUARANTINED = text("""
    INSERT INTO quarantined_events (id, agent_id, reason, line, line_bytes)
    SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:agents AS uuid[]), CAST(:reasons AS text[]),
        CAST(:lines AS bytea[]), CAST(:sizes AS integer[]))""")


async def insert_quarantined(connection: Connection, rows: Sequence[QuarantinedRow]) -> None:
    """Append lines to the quarantine."""
    columns = zip(("ids", "agents", "reasons", "lines", "sizes"), zip(*rows, strict=True), strict=True)
    await connection.execute(_INSERT_QUARANTINED, {name: list(values) for name, values in columns})


# First by the shares of agents: an agent that floods the quarantine displaces its own lines before others' lines.
_TRIM_QUARANTINE = text("""
    WITH placed AS (
        SELECT id, row_number() OVER (PARTITION BY agent_id ORDER BY id DESC) AS place FROM quarantined_events),
    kept AS (SELECT id FROM placed WHERE place <= :share ORDER BY id DESC LIMIT :kept)
    DELETE FROM quarantined_events WHERE id IN (SELECT id FROM placed EXCEPT SELECT id FROM kept)""")


async def trim_quarantine(connection: Connection, kept: int, share: int) -> int:
    """Delete all but the newest `kept` lines, and each agent's lines beyond its newest `share`; return the number."""
    return await connection.change(_TRIM_QUARANTINE, {"kept": kept, "share": share})


async def list_events(
    connection: Connection, agent_id: UUID | None, module: str | None, after: UUID | None, limit: int
) -> Page[Event]:
    """Return a page of events in order of time, starting after `after`."""
    statement = select(events.c.id, events.c.agent_id, events.c.module, events.c.collector, events.c.event)
    statement = statement.where(*equal(((events.c.agent_id, agent_id), (events.c.module, module))))
    if after is not None:
        statement = statement.where(events.c.id > after)
    return await fetch_page(
        connection,
        statement.order_by(events.c.id),
        ["id"],
        limit,
        lambda row: Event(received_at=uuid7_time(row.id), **row),
    )


async def list_quarantined(
    connection: Connection, agent_id: UUID | None, requested: PageRequest
) -> Page[QuarantinedEvent]:
    """Return a page of quarantined lines by id."""
    table = quarantined_events.c
    statement = select(table.id, table.agent_id, table.reason, table.line, table.line_bytes)
    statement = statement.where(*equal([(table.agent_id, agent_id)]), *requested.conditions(table.id))
    statement = statement.order_by(requested.sorting(table.id))
    return await fetch_page(connection, statement, requested.key("id"), requested.limit, _quarantined)


def _quarantined(row: Row) -> QuarantinedEvent:
    line = row.line.decode(errors="backslashreplace")
    return QuarantinedEvent(row.id, row.agent_id, uuid7_time(row.id), row.reason, line, row.line_bytes)
