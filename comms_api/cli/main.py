"""The entry point: it lists the commands, and prints their errors."""

import sys
from importlib import import_module

import click

from comms_api.errors import CommsError
from comms_api.text.printable import escape_controls

COMMANDS = ("serve", "agent", "commands", "cluster", "fleet", "files", "users", "events", "migrate", "demo")
"""Each is a module of this package, with a command of the same name."""


class LazyGroup(click.Group):
    """Imports a command when it is called, so that a server does not hold the other commands in memory."""

    def list_commands(self, _context: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        """Return the command of this name, or None."""
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"comms_api.cli.{name}"), name)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="comms-api")
def comms_api() -> None:
    """Run a server for a fleet of security agents, or an agent."""


def main() -> None:
    """Run a command; an operator's error is one line on standard error with exit code 1 (wrong usage: 2)."""
    try:
        comms_api(prog_name="comms-api")
    except UnicodeEncodeError as error:
        if error.reason != "surrogates not allowed":
            raise
        click.echo(f"comms-api: an argument or a setting is not UTF-8: {escape_controls(error.object)}", err=True)
        sys.exit(1)
    except CommsError as error:
        click.echo(f"comms-api: {escape_controls(str(error))}", err=True)
        sys.exit(1)
