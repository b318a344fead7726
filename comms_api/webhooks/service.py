"""Add, show, test, change and delete webhooks, and send dead letters again."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias
from uuid import UUID

import msgspec

from comms_api.database.connection import Connection, Engine
from comms_api.database.pages import Page
from comms_api.database.uuid7 import DatabaseClock
from comms_api.errors import Conflict, Invalid, NotFound
from comms_api.fleet.model import OutboxEvent
from comms_api.tokens.secret import Secret
from comms_api.webhooks import store
from comms_api.webhooks.model import (
    EVENTS_PER_DELIVERY,
    WEBHOOKS_MAXIMUM,
    DeadLetter,
    Delivery,
    DeliveryFailed,
    NewWebhook,
    Resent,
    Webhook,
    WebhookChange,
    WebhookSecret,
    WebhookTest,
)
from comms_api.webhooks.receiver import Receivers
from comms_api.webhooks.signing import new_secret

Post: TypeAlias = Callable[[Delivery], Awaitable[None]]


async def enqueue(connection: Connection, events: Sequence[OutboxEvent]) -> None:
    """Add the deliveries of events, in the transaction that publishes these events."""
    subscriptions = await store.list_subscriptions(connection)
    deliveries = [
        (webhook_id, msgspec.json.encode({"events": part}), len(part))
        for webhook_id, kinds in subscriptions.items()
        for part in _in_parts([event for event in events if event.kind in kinds])
    ]
    if deliveries:
        await store.add_deliveries(connection, deliveries)


def _in_parts(events: Sequence[OutboxEvent]) -> Iterator[Sequence[OutboxEvent]]:
    return (events[start : start + EVENTS_PER_DELIVERY] for start in range(0, len(events), EVENTS_PER_DELIVERY))


class Webhooks:
    """The webhooks of the fleet; `post` sends a delivery once, or raises `DeliveryFailed`."""

    def __init__(self, engine: Engine, secret: Secret, clock: DatabaseClock, receivers: Receivers, post: Post) -> None:
        self._engine = engine
        self._secret = secret
        self._clock = clock
        self._receivers = receivers
        self._post = post

    async def add(self, webhook: NewWebhook, user: str) -> WebhookSecret:
        """Add a webhook and return its secret; raises `Conflict` for a taken name or if there are too many."""
        self._receivers.check_url(webhook.url)
        made = WebhookSecret(self._clock.uuid7(), new_secret())
        values = {
            "id": made.id,
            "name": webhook.name,
            "url": webhook.url,
            "kinds": sorted(set(webhook.kinds)),
            "sealed_secret": self._secret.encrypt(made.secret.encode()),
            "user_name": user,
        }
        async with self._engine.begin() as connection:
            if await store.lock_webhooks(connection) >= WEBHOOKS_MAXIMUM:
                raise Conflict(f"There are {WEBHOOKS_MAXIMUM} webhooks already; delete one first.")
            if not await store.insert_webhook(connection, values):
                raise Conflict(f"A webhook {webhook.name!r} already exists.")
        return made

    async def list(self) -> Sequence[Webhook]:
        """Return all webhooks by name."""
        async with self._engine.connect() as connection:
            return await store.list_webhooks(connection)

    async def change(self, webhook_id: UUID, change: WebhookChange) -> Webhook:
        """Change a webhook and return it; raises `NotFound`."""
        changed = msgspec.structs.asdict(change)
        values: dict[str, Any] = {name: value for name, value in changed.items() if value is not None}
        if not values:
            raise Invalid("Set at least one of url, kinds and is_enabled.")
        if change.url is not None:
            self._receivers.check_url(change.url)
            values["paused_until"] = None  # the receiver before asked for the pause
        if change.kinds is not None:
            values["kinds"] = sorted(set(change.kinds))
        await self._update(webhook_id, values)
        async with self._engine.connect() as connection:
            webhook = await store.find_webhook(connection, webhook_id)
        if webhook is None:
            raise NotFound(f"There is no webhook {webhook_id}.")
        return webhook

    async def renew_secret(self, webhook_id: UUID) -> WebhookSecret:
        """Replace a webhook's secret, also for deliveries that wait; raises `NotFound`."""
        made = WebhookSecret(webhook_id, new_secret())
        values = {"sealed_secret": self._secret.encrypt(made.secret.encode()), "secret_version": self._clock.uuid7()}
        await self._update(webhook_id, values)
        return made

    async def test(self, webhook_id: UUID) -> WebhookTest:
        """Send one event of kind `test` and return the outcome; raises `NotFound`."""
        async with self._engine.connect() as connection:
            target = await store.find_target(connection, webhook_id)
        if target is None:
            raise NotFound(f"There is no webhook {webhook_id}.")
        url, sealed_secret = target
        at = datetime.fromtimestamp(self._clock.now(), UTC)
        event = OutboxEvent(self._clock.uuid7(), at, "test", None, None, None, msgspec.Raw(b"{}"))
        delivery = Delivery(event.id, url, sealed_secret, msgspec.json.encode({"events": [event]}), attempts=1)
        try:
            await self._post(delivery)
        except DeliveryFailed as error:
            return WebhookTest(is_accepted=False, error=str(error))
        return WebhookTest(is_accepted=True, error="")

    async def _update(self, webhook_id: UUID, values: dict[str, object]) -> None:
        async with self._engine.begin() as connection:
            if not await store.update_webhook(connection, webhook_id, values):
                raise NotFound(f"There is no webhook {webhook_id}.")

    async def delete(self, webhook_id: UUID) -> None:
        """Delete a webhook with its deliveries; raises `NotFound`."""
        async with self._engine.begin() as connection:
            if not await store.delete_webhook(connection, webhook_id):
                raise NotFound(f"There is no webhook {webhook_id}.")

    async def list_dead_letters(self, webhook_id: UUID, after: UUID | None, limit: int) -> Page[DeadLetter]:
        """Return one page of a webhook's dead letters, oldest first."""
        async with self._engine.connect() as connection:
            return await store.list_dead_letters(connection, webhook_id, after, limit)

    async def resend(self, webhook_id: UUID, delivery_id: UUID | None) -> Resent:
        """Send a webhook's dead letters again, or one of them; raises `NotFound` for an unknown one."""
        async with self._engine.begin() as connection:
            resent = await store.resend(connection, webhook_id, delivery_id)
        if delivery_id is not None and not resent:
            raise NotFound(f"The webhook has no dead letter {delivery_id}.")
        return Resent(resent)
