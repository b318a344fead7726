"""`comms-api orders`: the orders of agents and services."""

from typing import Any
from uuid import UUID

import click

from comms_api.cli.shared.operation import NOUN, Listing, operation, present
from comms_api.cli.shared.output import JsonObject
from comms_api.cli.shared.periods import period_and_order_options
from comms_api.cli.shared.views import Columns, fields, second, sentence, table
from comms_api.management_client.client import ManagementClient

PAGE_MAXIMUM = 200
EXPIRED = ("expired", "expired_before_delivery", "expired_after_delivery")
OUTCOMES = ("success", "failed", "rejected", *EXPIRED, "cancelled")


@click.group(context_settings=NOUN)
def orders() -> None:
    """Show and cancel orders: the parts of commands, one for each recipient."""


_COLUMNS: Columns = {
    "order": "order_id",
    "created": lambda order: second(order["created_at"]),
    "recipient": lambda order: order["agent_id"] or order["target"].get("id"),
    "action": lambda order: order["action"]["name"],
    "status": lambda order: order["outcome"] or order["status"],
    "code": lambda order: order["result"]["code"],
}
_WIDE: Columns = {
    "command": "request_id",
    "attempt": "attempt",
    "expires": lambda order: second(order["expires_at"]),
    "finished": lambda order: second(order["finished_at"]),
    "message": lambda order: order["result"]["message"],
}
_ORDER_ID = click.argument("order_id", type=click.UUID)


@operation(orders, "list", table(_COLUMNS, _WIDE), is_list=True, is_watchable=True)
@click.option("--agent", "agent_id", help="Only orders of this agent, by id or name; includes archived ones.")
@click.option("--command", "request_id", type=click.UUID, help="Only orders of this command.")
@click.option(
    "--status",
    type=click.Choice(["pending", "sent", "success", "failure", "cancelled"]),
    help="Only orders with this status.",
)
@click.option("--outcome", type=click.Choice(OUTCOMES), help="Only ended orders with this outcome.")
@click.option("--code", type=int, help="Only orders whose result has this code.")
@click.option("--action", help="Only orders with this action.")
@click.option("--target", help="Only orders of commands for this agent, group or service.")
@click.option("--submitter", "user", help="Only orders of commands of this user.")
@click.option("--source", help="Only orders of commands from this source.")
@period_and_order_options
def list_orders(_api: ManagementClient, **filters: Any) -> Listing:
    """List orders with their results."""
    return Listing("/orders", present(filters), PAGE_MAXIMUM)


@operation(orders, "show", fields, is_watchable=True)
@_ORDER_ID
def show(api: ManagementClient, order_id: UUID) -> JsonObject:
    """Show an order and its result."""
    return api.call(dict, "GET", f"/orders/{order_id}")


@operation(orders, "cancel", sentence("the order {order_id} is {status}"))
@_ORDER_ID
def cancel(api: ManagementClient, order_id: UUID) -> JsonObject:
    """Cancel an order that has not ended."""
    return api.call(dict, "POST", f"/orders/{order_id}/cancel")
