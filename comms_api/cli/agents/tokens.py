"""`comms-api tokens`: enrollment tokens."""

from pathlib import Path
from uuid import UUID

import click

from comms_api.cli.shared.operation import NOUN, Listing, operation, present
from comms_api.cli.shared.output import JsonObject
from comms_api.cli.shared.secrets import keep_secret, secret_output_option
from comms_api.cli.shared.views import Columns, fields, second, sentence, table
from comms_api.management_client.client import ManagementClient

DAY_SECONDS = 86_400.0


@click.group(context_settings=NOUN)
def tokens() -> None:
    """Show, create and revoke tokens that enroll agents."""


_COLUMNS: Columns = {
    "id": "id",
    "description": "description",
    "groups": "groups",
    "uses left": lambda token: "unlimited" if token["uses_left"] is None else token["uses_left"],
    "expires": lambda token: second(token["expires_at"]),
}
_WIDE: Columns = {"created": lambda token: second(token["created_at"]), "user": "user_name"}


@operation(tokens, "list", table(_COLUMNS, _WIDE), is_list=True)
def list_tokens(_api: ManagementClient) -> Listing:
    """List the enrollment tokens, oldest first."""
    return Listing("/enrollment-tokens", {})


@operation(tokens, "create", fields)
@click.option("--group", "groups", multiple=True, help="Group that the agents join; may be repeated.")
@click.option("--uses", type=click.IntRange(min=1), help="Number of agents that may enroll; by default unlimited.")
@click.option("--expires-in", type=float, default=DAY_SECONDS, metavar="SECONDS", help="Lifetime of the token.")
@click.option("--description", default="", help="Text that the list shows.")
@secret_output_option("token")
def create(api: ManagementClient, *, uses: int | None, output: Path | None, **options: object) -> JsonObject:
    """Create an enrollment token, and show it this once."""
    body = {**options, **present({"uses": uses})}
    return keep_secret(api.call(dict, "POST", "/enrollment-tokens", body), "token", output)


@operation(tokens, "revoke", sentence("the token {id} is revoked; the agents that it enrolled stay"))
@click.argument("token_id", type=click.UUID)
def revoke(api: ManagementClient, token_id: UUID) -> JsonObject:
    """Revoke an enrollment token."""
    api.ask("DELETE", f"/enrollment-tokens/{token_id}")
    return {"id": str(token_id)}
