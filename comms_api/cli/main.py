"""The entry point: every command, and one way to end with an error."""

import sys

import click

from comms_api.cli.agent import agent
from comms_api.cli.commands import commands
from comms_api.cli.demo import demo
from comms_api.cli.serve import serve
from comms_api.errors import CommsError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="comms-api")
def comms_api() -> None:
    """Serve a fleet of security agents, or be one."""


comms_api.add_command(serve)
comms_api.add_command(agent)
comms_api.add_command(commands)
comms_api.add_command(demo)


def main() -> None:
    """Run a command; an error of the operator's is one line on standard error, and exit code 1 (usage: 2)."""
    try:
        comms_api()
    except CommsError as error:
        click.echo(f"comms-api: {error}", err=True)
        sys.exit(1)
