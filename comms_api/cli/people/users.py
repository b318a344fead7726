"""`comms-api users`: manage users, and help users who cannot log in."""

import asyncio
from pathlib import Path

import click

from comms_api.app.secret_files import new_password
from comms_api.cli.shared.connection import FILE
from comms_api.cli.shared.node_options import CONFIG, DATA_DIR
from comms_api.cli.shared.operation import NOUN, Listing, operation, path_part, present
from comms_api.cli.shared.output import JsonObject
from comms_api.cli.shared.secrets import ask_secret
from comms_api.cli.shared.views import Columns, second, sentence, table
from comms_api.client.enroll import read_secret
from comms_api.database.actor import Actor, acting_as
from comms_api.database.connect import database
from comms_api.database.failures import requiring_database
from comms_api.management_client.client import ManagementClient
from comms_api.private_files import replace_private
from comms_api.settings import Settings, current_settings
from comms_api.users.service import FIRST_ADMINISTRATOR, read_password, reset_password

ACTOR = "comms-api users reset-password"


@click.group(context_settings=NOUN)
def users() -> None:
    """Show, create, change and delete users, and help users who cannot log in."""


_NAME = click.argument("name")
_ROLES = click.Choice(["administrator", "operator", "reader", "service"])
_COLUMNS: Columns = {"name": "name", "role": "role", "created": lambda user: second(user["created_at"])}


@operation(users, "list", table(_COLUMNS), is_list=True)
def list_users(_api: ManagementClient) -> Listing:
    """List the users by name."""
    return Listing("/users", {})


@operation(users, "create", sentence("the user {name} is created with the role {role}"))
@_NAME
@click.option("--role", type=_ROLES, required=True, help="Permissions of the user.")
@click.option("--new-password-file", type=FILE, help="File with the password; by default the terminal asks for it.")
def create(api: ManagementClient, *, name: str, role: str, new_password_file: Path | None) -> JsonObject:
    """Create a user: a person, or a service that gets orders under its name."""
    body = {"name": name, "role": role, "password": _new_password(new_password_file)}
    return api.call(dict, "POST", "/users", body)


@operation(users, "change", sentence("the user {name} is changed, and the user's tokens are revoked"))
@_NAME
@click.option("--role", type=_ROLES, help="New permissions of the user.")
@click.option("--new-password-file", type=FILE, help="File with the user's new password.")
def change(api: ManagementClient, *, name: str, role: str | None, new_password_file: Path | None) -> JsonObject:
    """Set a user's password or role, and revoke the user's tokens."""
    password = _new_password(new_password_file) if new_password_file or role is None else None
    api.ask("PATCH", f"/users/{path_part(name)}", json=present({"role": role, "password": password}))
    return {"name": name}


@operation(users, "delete", sentence("the user {name} is deleted"))
@_NAME
@click.confirmation_option(prompt="Delete the user?", help="Do not ask.")
def delete(api: ManagementClient, *, name: str) -> JsonObject:
    """Delete a user, and revoke the user's tokens."""
    api.ask("DELETE", f"/users/{path_part(name)}")
    return {"name": name}


@operation(users, "password", sentence("the password of {name} is changed, and the tokens are revoked: log in again"))
@click.option("--old-password-file", type=FILE, help="File with the old password; by default the terminal asks for it.")
@click.option("--new-password-file", type=FILE, help="File with the new password; by default the terminal asks for it.")
def password(api: ManagementClient, *, old_password_file: Path | None, new_password_file: Path | None) -> JsonObject:
    """Change the password of the user who is logged in."""
    name = api.call(dict, "GET", "/users/me")["name"]
    if old_password_file:
        old = read_secret("--old-password-file", old_password_file)
    else:
        old = ask_secret(f"Old password of {name}")
    api.ask("PUT", "/users/me/password", json={"old": old, "new": _new_password(new_password_file)})
    return {"name": name}


def _new_password(file: Path | None) -> str:
    if file is not None:
        return read_secret("--new-password-file", file)
    return ask_secret("New password", is_repeated=True)


@users.command("reset-password")
@click.argument("name", default=FIRST_ADMINISTRATOR)
@CONFIG
@DATA_DIR
@click.option(
    "--password-file",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="File with the new password; by default the command generates one.",
)
def reset(name: str, config: Path | None, data_dir: Path | None, password_file: Path | None) -> None:
    """Set the password of a user who cannot log in, and revoke the user's tokens.

    Run this on a node, with the node's settings; the node need not run. NAME is the user, by default admin. A generated
    password is written to `NAME.password` in the data directory.
    """
    settings = current_settings(config, data_dir=data_dir)
    secret = new_password() if password_file is None else read_password("--password-file", password_file)
    asyncio.run(_reset(settings, name, secret))
    if password_file is None:
        made = settings.data_dir / f"{name}.password"
        replace_private(made, secret.encode())
        click.echo(f"the new password of {name} is in {made}")
    else:
        click.echo(f"{name} has a new password")


async def _reset(settings: Settings, name: str, password: str) -> None:
    with requiring_database(), acting_as(Actor(ACTOR)):
        async with database(settings) as engine, engine.begin() as connection:
            await reset_password(connection, name, password)
