"""The management API's webhooks, for administrators."""

from collections.abc import Sequence
from uuid import UUID

from litestar import delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody

from comms_api.database.pages import Page
from comms_api.http.authentication import claims_of
from comms_api.http.pages import LARGE, Limit
from comms_api.http.request import AnyRequest
from comms_api.http.roles import ADMINISTER
from comms_api.webhooks.model import DeadLetter, NewWebhook, Resent, Webhook, WebhookChange, WebhookSecret, WebhookTest
from comms_api.webhooks.service import Webhooks


@post("/webhooks", opt=ADMINISTER)
async def add_webhook(
    request: AnyRequest, data: JSONBody[NewWebhook], webhooks: NamedDependency[Webhooks]
) -> WebhookSecret:
    """Add a webhook and return its secret, which is shown only once; 409 if the name is taken.

    The server posts events of these kinds to the URL, each at least once and signed with the secret.
    """
    return await webhooks.add(data, claims_of(request).subject)


@get("/webhooks", opt=ADMINISTER)
async def list_webhooks(webhooks: NamedDependency[Webhooks]) -> Sequence[Webhook]:
    """List the webhooks by name, with their last errors and the numbers of waiting and dead deliveries."""
    return await webhooks.list()


@patch("/webhooks/{webhook_id:uuid}", opt=ADMINISTER)
async def change_webhook(
    webhook_id: FromPath[UUID], data: JSONBody[WebhookChange], webhooks: NamedDependency[Webhooks]
) -> Webhook:
    """Change the URL or the kinds of a webhook, or disable it: its deliveries wait, and new events are not sent."""
    return await webhooks.change(webhook_id, data)


@delete("/webhooks/{webhook_id:uuid}", opt=ADMINISTER)
async def delete_webhook(webhook_id: FromPath[UUID], webhooks: NamedDependency[Webhooks]) -> None:
    """Delete a webhook and its deliveries."""
    await webhooks.delete(webhook_id)


@post("/webhooks/{webhook_id:uuid}/secret", status_code=200, opt=ADMINISTER)
async def renew_secret(webhook_id: FromPath[UUID], webhooks: NamedDependency[Webhooks]) -> WebhookSecret:
    """Replace the secret of a webhook and return the new one, which signs every delivery from now on."""
    return await webhooks.renew_secret(webhook_id)


@post("/webhooks/{webhook_id:uuid}/test", status_code=200, opt=ADMINISTER)
async def test_webhook(webhook_id: FromPath[UUID], webhooks: NamedDependency[Webhooks]) -> WebhookTest:
    """Send one event of kind `test` now, also if the webhook is disabled or paused, and return the outcome.

    A test delivery that fails is not sent again.
    """
    return await webhooks.test(webhook_id)


@get("/webhooks/{webhook_id:uuid}/dead-letters", opt=ADMINISTER | LARGE)
async def list_dead_letters(
    webhook_id: FromPath[UUID],
    webhooks: NamedDependency[Webhooks],
    after: FromQuery[UUID | None] = None,
    limit: Limit = 100,
) -> Page[DeadLetter]:
    """List the deliveries of a webhook that failed too often, oldest first."""
    return await webhooks.list_dead_letters(webhook_id, after, limit)


@post("/webhooks/{webhook_id:uuid}/dead-letters/resend", status_code=200, opt=ADMINISTER)
async def resend_dead_letters(
    webhook_id: FromPath[UUID], webhooks: NamedDependency[Webhooks], delivery_id: FromQuery[UUID | None] = None
) -> Resent:
    """Send the dead letters of a webhook again, or the one that `delivery_id` names."""
    return await webhooks.resend(webhook_id, delivery_id)


ROUTES = [
    add_webhook,
    list_webhooks,
    change_webhook,
    delete_webhook,
    renew_secret,
    test_webhook,
    list_dead_letters,
    resend_dead_letters,
]
