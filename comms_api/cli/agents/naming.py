"""The agent that a command is about."""

import click

from comms_api.cli.shared.operation import path_part

AGENT = click.argument("agent")
"""An agent, by id or name."""


def path_of(agent: str) -> str:
    """Return the path of an agent, by id or name."""
    return f"/agents/{path_part(agent)}"
