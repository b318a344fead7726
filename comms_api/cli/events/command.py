"""The group of commands."""

import click

from comms_api.cli.events.reading import export, list_events, show, tail
from comms_api.cli.events.relay import relay
from comms_api.cli.shared.operation import NOUN


@click.group(context_settings=NOUN)
def events() -> None:
    """Search and follow the events of agents, and copy them."""


for command in (list_events, show, export, tail, relay):
    events.add_command(command)
