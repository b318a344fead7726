"""`comms-api actions`: the actions whose args are checked."""

from typing import Any, BinaryIO

import click
import msgspec

from comms_api.cli.shared.operation import NOUN, operation, path_part, present
from comms_api.cli.shared.output import JsonObject
from comms_api.cli.shared.views import Columns, second, sentence, table
from comms_api.errors import NotFound
from comms_api.management_client.client import ManagementClient


@click.group(context_settings=NOUN)
def actions() -> None:
    """Show, register and delete the actions whose args are checked."""


_COLUMNS: Columns = {
    "name": "name",
    "version": "version",
    "recipients": "recipients",
    "registered by": lambda action: action["user"] or "built in",
}
_WIDE: Columns = {
    "created": lambda action: second(action["created_at"]),
    "signers": lambda action: len(action["signers"]),
    "schema": "schema",
}
_NAME = click.argument("name")


@operation(actions, "list", table(_COLUMNS, _WIDE))
def list_actions(api: ManagementClient) -> list[JsonObject]:
    """List the actions, built in and registered."""
    return api.call(list, "GET", "/actions")


@operation(actions, "show", table({**_COLUMNS, "schema": "schema"}))
@_NAME
def show(api: ManagementClient, name: str) -> list[JsonObject]:
    """Show every version of an action with the JSON Schema of its args."""
    found = [action for action in api.call(list, "GET", "/actions") if action["name"] == name]
    if not found:
        raise NotFound(f"there is no action {name!r} with a schema; its args are not checked")
    return found


@operation(actions, "register", sentence("the action {name} is registered for {recipients}"))
@_NAME
@click.option("--schema", type=click.File("rb"), required=True, help="File with the JSON Schema of the args.")
@click.option(
    "--recipients", type=click.Choice(["agents", "services", "any"]), default="agents", help="Who may get the action."
)
@click.option("--version", help="Only for commands whose action has this version.")
@click.option("--signer", "signers", multiple=True, metavar="KEY", help="Public key, one of which must sign; base64.")
def register(api: ManagementClient, *, name: str, schema: BinaryIO, version: str | None, **options: Any) -> JsonObject:
    """Register or change an action."""
    try:
        content = msgspec.json.decode(schema.read())
    except msgspec.DecodeError as error:
        raise click.BadParameter(str(error), param_hint="--schema") from None
    body = {"schema": content, **options, **present({"version": version})}
    return {"name": name, **api.call(dict, "PUT", f"/actions/{path_part(name)}", body)}


@operation(actions, "delete", sentence("the action {name} is deleted"))
@_NAME
@click.option("--version", help="Delete only this version.")
def delete(api: ManagementClient, *, name: str, version: str | None) -> JsonObject:
    """Delete a registered action."""
    api.ask("DELETE", f"/actions/{path_part(name)}", params=present({"version": version}))
    return {"name": name, "version": version}
