"""`comms-api serve`: run a node."""

import os
import sys
from pathlib import Path

import click

from comms_api.app.supervisor import Listening
from comms_api.app.supervisor import serve as serve_node
from comms_api.app.systemd import find_manager
from comms_api.cli.shared.logs import log_as_set
from comms_api.cli.shared.node_options import CONFIG, DATA_DIR
from comms_api.settings import current_settings


@click.command()
@CONFIG
@click.option("--workers", type=int, help="Number of processes; by default one per core.")
@DATA_DIR
@click.option("--agent-bind", help="Address of the agent API, HOST:PORT.")
@click.option("--management-bind", help="Address of the management API, HOST:PORT.")
def serve(config: Path | None, **overrides: object) -> None:
    """Run a node.

    It serves the agent API and the management API until SIGTERM; SIGHUP reloads the certificate. The first start
    creates everything that is missing. Every setting can be given as COMMS_API_<NAME>.
    """
    settings = current_settings(config, **overrides)
    log_as_set(sys.stderr, settings)
    serve_node(settings, _announce, find_manager(os.environ))


def _announce(listening: Listening) -> None:
    if (file := listening.administrator_password_file) is not None:
        click.echo(f"administrator:   admin, password {file.read_text()} (in {file})")
    click.echo(f"certificate:     {listening.certificate.chain}")
    click.echo(f"agent API:       {listening.agent_url}")
    click.echo(f"management API:  {listening.management_url}")
