"""`comms-api webhooks`: post events and results to other programs, and repair failed deliveries."""

from typing import get_args

import click

from comms_api.cli.shared.operation import NOUN, Listing, Outcome, operation, path_part, present
from comms_api.cli.shared.output import JsonObject
from comms_api.cli.shared.views import fields, sentence, table
from comms_api.errors import NotFound
from comms_api.management_client.client import ManagementClient
from comms_api.webhooks.model import WebhookKind

_KINDS = get_args(WebhookKind)
_SHOWN = ("name", "url", "kinds", "is_enabled", "waiting", "dead", "dropped_events", "paused_until", "last_error")
_DEAD = ("id", "created_at", "attempts", "last_error")


@click.group(context_settings=NOUN)
def webhooks() -> None:
    """Post events and results to other programs."""


@operation(webhooks, "list", table({name: name for name in _SHOWN}), is_watchable=True)
def list_webhooks(api: ManagementClient) -> list[JsonObject]:
    """List the webhooks, with their deliveries and their last errors."""
    return api.call(list, "GET", "/webhooks")


@operation(webhooks, "add", fields)
@click.argument("name")
@click.argument("receiver", metavar="URL")
@click.option(
    "--kind", "kinds", type=click.Choice(_KINDS), multiple=True, required=True, help="Kind of event; several."
)
def add(api: ManagementClient, *, name: str, receiver: str, kinds: tuple[str, ...]) -> JsonObject:
    """Add a webhook, and show the secret that signs its deliveries.

    The secret is shown only once.
    """
    return api.call(dict, "POST", "/webhooks", json={"name": name, "url": receiver, "kinds": kinds})


_NAME = click.argument("name")


@operation(webhooks, "delete", sentence("{name} was deleted"))
@_NAME
def delete(api: ManagementClient, *, name: str) -> JsonObject:
    """Delete a webhook and its deliveries."""
    api.ask("DELETE", _path(api, name))
    return {"name": name}


@operation(webhooks, "test", fields)
@_NAME
def test(api: ManagementClient, *, name: str) -> Outcome:
    """Send a test delivery now; the exit code is 1 if the receiver does not accept it."""
    outcome = api.call(dict, "POST", f"{_path(api, name)}/test")
    return Outcome(outcome, exit_code=0 if outcome["is_accepted"] else 1)


@operation(webhooks, "dead-letters", table({name: name for name in _DEAD}), is_list=True)
@_NAME
def dead_letters(api: ManagementClient, *, name: str) -> Listing:
    """List the deliveries that failed too often, oldest first."""
    return Listing(f"{_path(api, name)}/dead-letters", {})


@operation(webhooks, "retry", sentence("{deliveries} dead letter(s) will be sent again"))
@_NAME
@click.option("--delivery", "delivery_id", help="Only this dead letter, by id.")
def retry(api: ManagementClient, *, name: str, **chosen: str | None) -> JsonObject:
    """Send the dead letters of a webhook again."""
    return api.call(dict, "POST", f"{_path(api, name)}/dead-letters/resend", params=present(chosen))


def _path(api: ManagementClient, name: str) -> str:
    """Return the path of a webhook that is named by its name or its id."""
    for webhook in api.call(list, "GET", "/webhooks"):
        if name in {webhook["name"], webhook["id"]}:
            return f"/webhooks/{path_part(webhook['id'])}"
    raise NotFound(f"There is no webhook {name!r}; `comms-api webhooks list` shows all.")
