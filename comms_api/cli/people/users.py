"""`comms-api users`: help users who cannot log in."""

import asyncio
from pathlib import Path

import click

from comms_api.app.secret_files import new_password
from comms_api.database.actor import Actor, acting_as
from comms_api.database.connect import database
from comms_api.database.failures import describe_outage, is_outage
from comms_api.errors import ConfigurationError
from comms_api.private_files import replace_private
from comms_api.settings import Settings, current_settings
from comms_api.users.service import FIRST_ADMINISTRATOR, read_password, reset_password

ACTOR = "comms-api users reset-password"


@click.group(context_settings={"show_default": True})
def users() -> None:
    """Help users who cannot log in.

    Run this on a node, with the node's settings.
    """


@users.command("reset-password")
@click.argument("name", default=FIRST_ADMINISTRATOR)
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="Read settings from a TOML file.")
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Folder for data and secrets.")
@click.option(
    "--password-file",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="File with the new password; by default the command generates one.",
)
def reset(name: str, config: Path | None, data_dir: Path | None, password_file: Path | None) -> None:
    """Set a user's password, and revoke the user's tokens.

    NAME is the user, by default admin. The node need not run. A generated password is written to `NAME.password` in
    the data directory.
    """
    settings = current_settings(config, data_dir=data_dir)
    password = new_password() if password_file is None else read_password("--password-file", password_file)
    asyncio.run(_reset(settings, name, password))
    if password_file is None:
        made = settings.data_dir / f"{name}.password"
        replace_private(made, password.encode())
        click.echo(f"the new password of {name} is in {made}")
    else:
        click.echo(f"{name} has a new password")


async def _reset(settings: Settings, name: str, password: str) -> None:
    try:
        with acting_as(Actor(ACTOR)):
            async with database(settings) as engine, engine.begin() as connection:
                await reset_password(connection, name, password)
    except Exception as error:
        if is_outage(error):
            raise ConfigurationError(f"database_url: the database cannot be used: {describe_outage(error)}") from None
        raise
