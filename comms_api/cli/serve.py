"""`comms-api serve`: run a node."""

import os
import sys
from pathlib import Path

import click

from comms_api.app.supervisor import Listening
from comms_api.app.supervisor import serve as serve_node
from comms_api.app.systemd import find_manager
from comms_api.cli.logs import log_to
from comms_api.settings import current_settings


@click.command()
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="Read settings from a TOML file.")
@click.option("--workers", type=int, help="How many processes serve; one per core.")
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Where data and secrets live.")
@click.option("--agent-bind", help="HOST:PORT of the agent API.")
@click.option("--management-bind", help="HOST:PORT of the management API.")
def serve(config: Path | None, **overrides: object) -> None:
    """Serve the agent and the management API until SIGTERM; SIGHUP has the certificate read again.

    On the first start everything that is missing is made. Every setting can be given as COMMS_API_<NAME>.
    """
    settings = current_settings(config, **overrides)
    log_to(sys.stderr, settings.log_level)
    serve_node(settings, _announce, find_manager(os.environ))


def _announce(listening: Listening) -> None:
    if (file := listening.administrator_password_file) is not None:
        click.echo(f"administrator:   admin, password {file.read_text()} (in {file})")
    click.echo(f"certificate:     {listening.certificate.chain}")
    click.echo(f"agent API:       {listening.agent_url}")
    click.echo(f"management API:  {listening.management_url}")
