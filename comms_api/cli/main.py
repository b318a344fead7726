"""The entry point: every command, and one way to end with an error."""

import sys

import click

from comms_api.cli.agent import agent
from comms_api.cli.demo import demo
from comms_api.cli.serve import serve
from comms_api.errors import CommsError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="comms-api")
def commands() -> None:
    """Serve a fleet of security agents, or be one."""


commands.add_command(serve)
commands.add_command(agent)
commands.add_command(demo)


def main() -> None:
    """Run a command; an error of the operator's is one line on standard error, and exit code 1 (usage: 2)."""
    try:
        commands()
    except CommsError as error:
        click.echo(f"comms-api: {error}", err=True)
        sys.exit(1)
