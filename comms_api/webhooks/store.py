"""SQL statements about webhooks and their deliveries."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text

from comms_api.database.connection import Connection
from comms_api.database.pages import Page, fetch_page
from comms_api.database.schema import webhook_deliveries, webhooks
from comms_api.webhooks.model import BACKLOG_MAXIMUM, DEAD_LETTERS_MAXIMUM, DeadLetter, Delivery, Webhook

WEBHOOKS_LOCK = 0x776562686F6F6B

_delivery = webhook_deliveries.c


async def lock_webhooks(connection: Connection) -> int:
    """Let one transaction at a time add webhooks; return how many there are."""
    await connection.take_turns(WEBHOOKS_LOCK)
    count: int = await connection.scalar(select(func.count()).select_from(webhooks))
    return count


async def insert_webhook(connection: Connection, values: Mapping[str, Any]) -> bool:
    """Add a webhook; return False if its name is taken."""
    if await connection.scalar(select(webhooks.c.id).where(webhooks.c.name == values["name"])) is not None:
        return False
    await connection.execute(webhooks.insert().values(values))
    return True


async def update_webhook(connection: Connection, webhook_id: UUID, values: Mapping[str, Any]) -> bool:
    """Change a webhook; return whether it exists."""
    statement = webhooks.update().where(webhooks.c.id == webhook_id).values(values).returning(webhooks.c.id)
    return await connection.scalar(statement) is not None


async def delete_webhook(connection: Connection, webhook_id: UUID) -> bool:
    """Delete a webhook and its deliveries; return whether it existed."""
    statement = webhooks.delete().where(webhooks.c.id == webhook_id).returning(webhooks.c.id)
    return await connection.scalar(statement) is not None


_WAITING = select(func.count()).where(_delivery.webhook_id == webhooks.c.id, ~_delivery.is_dead).scalar_subquery()
_DEAD = select(func.count()).where(_delivery.webhook_id == webhooks.c.id, _delivery.is_dead).scalar_subquery()
_SHOWN = (
    *(webhooks.c.id, webhooks.c.name, webhooks.c.url, webhooks.c.kinds, webhooks.c.is_enabled, webhooks.c.user_name),
    *(webhooks.c.created_at, _WAITING.label("waiting"), _DEAD.label("dead"), webhooks.c.dropped_events),
    *(webhooks.c.last_error, webhooks.c.paused_until),
)


async def list_webhooks(connection: Connection) -> list[Webhook]:
    """Return all webhooks by name; their number is bounded."""
    return [Webhook(**row) for row in await connection.execute(select(*_SHOWN).order_by(webhooks.c.name))]


async def find_webhook(connection: Connection, webhook_id: UUID) -> Webhook | None:
    """Return one webhook, or None."""
    row = await connection.first(select(*_SHOWN).where(webhooks.c.id == webhook_id))
    return Webhook(**row) if row else None


async def find_target(connection: Connection, webhook_id: UUID) -> tuple[str, bytes] | None:
    """Return the URL and the encrypted secret of a webhook, or None."""
    row = await connection.first(select(webhooks.c.url, webhooks.c.sealed_secret).where(webhooks.c.id == webhook_id))
    return None if row is None else (row[0], row[1])


async def list_subscriptions(connection: Connection) -> dict[UUID, set[str]]:
    """Return the kinds of events that each enabled webhook sends."""
    rows = await connection.execute(select(webhooks.c.id, webhooks.c.kinds).where(webhooks.c.is_enabled))
    return {webhook_id: set(kinds) for webhook_id, kinds in rows}


_ADD = text(f"""
    WITH added AS (
        SELECT * FROM unnest(CAST(:webhook_ids AS uuid[]), CAST(:contents AS text[]), CAST(:events AS int[]))
            AS added (webhook_id, content, events)
    ), waiting AS (
        SELECT webhooks.id, (SELECT count(*) FROM (SELECT FROM webhook_deliveries
            WHERE webhook_id = webhooks.id AND NOT is_dead LIMIT {BACKLOG_MAXIMUM}) AS counted) AS deliveries
        FROM webhooks WHERE id IN (SELECT webhook_id FROM added)
    ), dropped AS (
        UPDATE webhooks SET dropped_events = dropped_events + sums.events
        FROM (SELECT webhook_id, sum(events) AS events FROM added GROUP BY webhook_id) AS sums, waiting
        WHERE sums.webhook_id = webhooks.id AND waiting.id = webhooks.id AND deliveries >= {BACKLOG_MAXIMUM}
    )
    INSERT INTO webhook_deliveries (webhook_id, content)
    SELECT webhook_id, CAST(content AS json)
    FROM added JOIN waiting ON waiting.id = webhook_id AND deliveries < {BACKLOG_MAXIMUM}""")


async def add_deliveries(connection: Connection, deliveries: Sequence[tuple[UUID, bytes, int]]) -> None:
    """Add deliveries: the webhook, the body and its number of events. A webhook with a full backlog drops them."""
    parameters = {
        "webhook_ids": [webhook_id for webhook_id, _, _ in deliveries],
        "contents": [content.decode() for _, content, _ in deliveries],
        "events": [events for _, _, events in deliveries],
    }
    await connection.execute(_ADD, parameters)


_FIND_DUE = text("""
    SELECT id FROM webhooks WHERE is_enabled AND coalesce(paused_until <= now(), true) AND EXISTS (
        SELECT FROM webhook_deliveries WHERE webhook_id = webhooks.id AND NOT is_dead AND due_at <= now())""")


async def find_due(connection: Connection) -> list[UUID]:
    """Return the enabled webhooks that have a delivery to send now, except paused ones."""
    return await connection.scalars(_FIND_DUE)


_CLAIM = text("""
    UPDATE webhook_deliveries AS claimed
    SET attempts = attempts + 1, due_at = now() + make_interval(secs => :lease_seconds)
    FROM webhooks
    WHERE webhooks.id = claimed.webhook_id AND coalesce(paused_until <= now(), true) AND claimed.id = (
        SELECT id FROM webhook_deliveries
        WHERE webhook_id = :webhook_id AND NOT is_dead AND due_at <= now()
        ORDER BY due_at, id LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING claimed.id, webhooks.url, webhooks.sealed_secret, CAST(claimed.content AS text), claimed.attempts""")


async def claim(connection: Connection, webhook_id: UUID, lease_seconds: float) -> Delivery | None:
    """Return a webhook's next due delivery, which no other process gets during the lease."""
    row = await connection.first(_CLAIM, {"webhook_id": webhook_id, "lease_seconds": lease_seconds})
    if row is None:
        return None
    delivery_id, url, sealed_secret, content, attempts = row
    return Delivery(delivery_id, url, sealed_secret, content.encode(), attempts)


async def settle(connection: Connection, delivery: Delivery) -> None:
    """Delete a delivery that the receiver has accepted."""
    await connection.execute(webhook_deliveries.delete().where(_delivery.id == delivery.id))


_FAIL = text("""
    WITH failed AS (
        UPDATE webhook_deliveries SET is_dead = :is_dead, last_error = :error,
            due_at = now() + make_interval(secs => :retry_seconds)
        WHERE id = :id AND attempts = :attempts RETURNING webhook_id
    )
    UPDATE webhooks SET last_error = :error, paused_until = now() + make_interval(secs => :pause_seconds)
    FROM failed WHERE webhooks.id = failed.webhook_id""")


async def fail(
    connection: Connection, delivery: Delivery, error: str, retry_seconds: float | None, pause_seconds: float | None
) -> None:
    """Record a failed attempt; without `retry_seconds`, the delivery becomes a dead letter.

    With `pause_seconds`, the other deliveries of the webhook wait, too.
    """
    parameters = {
        "id": delivery.id,
        "attempts": delivery.attempts,
        "error": error,
        "is_dead": retry_seconds is None,
        "retry_seconds": retry_seconds or 0.0,
        "pause_seconds": pause_seconds,
    }
    await connection.execute(_FAIL, parameters)


async def list_dead_letters(
    connection: Connection, webhook_id: UUID, after: UUID | None, limit: int
) -> Page[DeadLetter]:
    """Return a page of a webhook's dead letters, oldest first."""
    columns = (_delivery.id, _delivery.created_at, _delivery.attempts, _delivery.last_error, _delivery.content)
    statement = select(*columns).where(_delivery.webhook_id == webhook_id, _delivery.is_dead).order_by(_delivery.id)
    if after is not None:
        statement = statement.where(_delivery.id > after)
    return await fetch_page(connection, statement, ["id"], limit, lambda row: DeadLetter(**row))


async def resend(connection: Connection, webhook_id: UUID, delivery_id: UUID | None) -> int:
    """Make a webhook's dead letters, or one of them, due again; return how many."""
    statement = webhook_deliveries.update().where(_delivery.webhook_id == webhook_id, _delivery.is_dead)
    if delivery_id is not None:
        statement = statement.where(_delivery.id == delivery_id)
    return await connection.change(statement.values(is_dead=False, attempts=0, due_at=func.now()))


_TRIM = text(f"""
    DELETE FROM webhook_deliveries WHERE id IN (
        SELECT id FROM (
            SELECT id, row_number() OVER (PARTITION BY webhook_id ORDER BY id DESC) AS number
            FROM webhook_deliveries WHERE is_dead) AS dead
        WHERE number > {DEAD_LETTERS_MAXIMUM})""")


async def trim_dead_letters(connection: Connection) -> None:
    """Delete the oldest dead letters of webhooks that have too many."""
    await connection.execute(_TRIM)


async def list_secrets(connection: Connection) -> list[tuple[UUID, bytes]]:
    """Return the encrypted secret of each webhook."""
    return [(row[0], row[1]) for row in await connection.execute(select(webhooks.c.id, webhooks.c.sealed_secret))]


async def replace_secret(connection: Connection, webhook_id: UUID, before: bytes, after: bytes) -> None:
    """Store a secret that was encrypted again, unless it has changed since then."""
    statement = webhooks.update().where(webhooks.c.id == webhook_id, webhooks.c.sealed_secret == before)
    await connection.execute(statement.values(sealed_secret=after))
