"""SQL statements about events of the fleet.

A transaction that changes the fleet inserts its events into `outbox`. Later, one transaction at a time moves them to
`fleet_events` and so gives them their positions. Positions therefore become visible in their order.
"""

from collections.abc import Collection

from sqlalchemy import func, select, text

from comms_api.database.connection import Connection
from comms_api.database.pages import Order, Page, equal, fetch_page
from comms_api.database.schema import fleet_events, is_one_of, outbox
from comms_api.errors import Conflict
from comms_api.fleet.model import FleetEvent, FleetEventFilter, FleetTail, OutboxEvent

OUTBOX_LOCK = 0x6F7574626F78
RESULT = "order_ended"
"""The kind of the events that webhooks get of orders' results."""

_LOCK_OUTBOX = select(func.pg_try_advisory_xact_lock(OUTBOX_LOCK)).select_from(outbox).limit(1)


async def lock_outbox(connection: Connection) -> bool:
    """Try to lock the outbox until this transaction ends; return whether it has events and is locked."""
    return bool(await connection.scalar(_LOCK_OUTBOX))


_SHOWN = "id, at, kind, agent_id, agent_name, node, details"
_PUBLISH = text(f"""
    WITH published AS (
        DELETE FROM outbox WHERE id = ANY(ARRAY(SELECT id FROM outbox ORDER BY id LIMIT :limit)) RETURNING {_SHOWN}
    ), kept AS (
        INSERT INTO fleet_events ({_SHOWN}) SELECT {_SHOWN} FROM published WHERE kind <> '{RESULT}' ORDER BY id
    )
    SELECT {_SHOWN} FROM published ORDER BY id""")


async def publish(connection: Connection, limit: int) -> list[OutboxEvent]:
    """Move up to `limit` events from the locked outbox to `fleet_events`, and return them.

    Results of orders are not kept: they are events for webhooks only.
    """
    return [OutboxEvent(*row) for row in await connection.execute(_PUBLISH, {"limit": limit})]


async def newest_position(connection: Connection) -> int:
    """Return the position of the newest event, or 0."""
    newest: int | None = await connection.scalar(select(func.max(fleet_events.c.position)))
    return newest or 0


async def list_events(
    connection: Connection, event_filter: FleetEventFilter, order: Order, after: int | None, limit: int
) -> Page[FleetEvent]:
    """Return a page of events that follow the position `after` in this order."""
    position, is_newest = fleet_events.c.position, order == "newest"
    statement = select(fleet_events).order_by(position.desc() if is_newest else position)
    pairs = ((fleet_events.c[name], getattr(event_filter, name)) for name in ("kind", "agent_id", "node"))
    statement = statement.where(*equal(pairs))
    if event_filter.since is not None:
        statement = statement.where(fleet_events.c.at >= event_filter.since)
    if event_filter.until is not None:
        statement = statement.where(fleet_events.c.at < event_filter.until)
    if after is not None:
        statement = statement.where(position < after if is_newest else position > after)
    key = ["-position" if is_newest else "position"]
    return await fetch_page(connection, statement, key, limit, lambda row: FleetEvent(**row))


async def check_position(connection: Connection, position: int) -> int:
    """Return the position of the newest event; raises `Conflict` if it is before `position`, as after a restore."""
    if position > (newest := await newest_position(connection)):
        raise Conflict(
            f"after: the newest event has position {newest}, so {position} is from before the database was restored;"
            " begin again without it"
        )
    return newest


async def read_tail(connection: Connection, event_filter: FleetEventFilter, after: int | None, limit: int) -> FleetTail:
    """Return up to `limit` events that follow a position, and the last position that was examined; None is now."""
    if after is None:
        return FleetTail([], await newest_position(connection))
    newest = await check_position(connection, after)
    page = await list_events(connection, event_filter, "oldest", after, limit)
    last = page.items[-1].position if page.items else after
    return FleetTail(page.items, last if page.next else max(last, newest))


async def find_events(connection: Connection, kinds: Collection[str], after: int, limit: int) -> list[FleetEvent]:
    """Return up to `limit` events of some kinds that follow a position, oldest first."""
    position = fleet_events.c.position
    statement = select(fleet_events).where(is_one_of(fleet_events.c.kind, kinds), position > after)
    return [FleetEvent(**row) for row in await connection.execute(statement.order_by(position).limit(limit))]


_TRIM = text("""
    DELETE FROM fleet_events WHERE position = ANY(ARRAY(
        SELECT position FROM fleet_events
        WHERE at < now() - make_interval(days => :days)
            OR position <= (SELECT max(position) FROM fleet_events) - :rows
        ORDER BY position LIMIT :limit))""")


async def trim(connection: Connection, days: int, rows: int, limit: int) -> int:
    """Delete up to `limit` of the events that are older than `days` or exceed `rows`; return how many."""
    return await connection.change(_TRIM, {"days": days, "rows": rows, "limit": limit})
