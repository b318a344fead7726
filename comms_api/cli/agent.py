"""`comms-api agent`: be the reference agent on this host."""

import asyncio
import logging
import platform
import signal
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from comms_api.cli.logs import log_to
from comms_api.client.agent import run_agent
from comms_api.client.options import Options
from comms_api.text.printable import as_text

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, exists=True, path_type=Path)


def _url(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse what is no https URL: nothing is ever sent in the clear."""
    try:
        url = urlsplit(value or "https://none")
        is_usable = url.scheme == "https" and bool(url.hostname) and url.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise click.BadParameter(f"{value!r} does not have the form https://HOST:PORT")
    return value


@click.command(context_settings={"auto_envvar_prefix": "COMMS_AGENT", "show_default": True})
@click.option("--url", required=True, callback=_url, help="Where the agent API is.")
@click.option("--management-url", callback=_url, help="Where the management API is; needed to enroll.")
@click.option("--ca", type=_FILE, help="The authority that signed the server's certificate; else the system's.")
@click.option("--proxy", help="The HTTP proxy to use; by default the environment names one.")
@click.option("--no-proxy", is_flag=True, help="Use no proxy, whatever the environment says.")
@click.option("--data-dir", type=_FOLDER, default=Path("agent"), help="Where the agent keeps its spool.")
@click.option("--name", default=lambda: as_text(platform.node()), show_default="host name", help="The agent's name.")
@click.option("--group", "groups", multiple=True, help="A group to enroll in; may be repeated.")
@click.option("--user", default="admin", help="The user who enrolls.")
@click.option("--password-file", type=_FILE, help="Holds that user's password.")
@click.option("--enrollment-token-file", type=_FILE, help="Holds a token to enroll by, instead of a user.")
@click.option("--id", "agent_id", help="Who the agent is in an external database; it does not enroll, it logs in.")
@click.option("--key-file", type=_FILE, help="Holds the key of --id, or the new key of an enrolled agent.")
@click.option("--log-file", "log_files", multiple=True, help="A pattern of log files to follow; may be repeated.")
@click.option("--from-start", is_flag=True, help="Read files that are new to the agent from their start.")
@click.option("--inventory/--no-inventory", default=True, help="Report packages, processes, interfaces, system.")
@click.option("--scan-interval-seconds", type=click.FloatRange(min=0.1), default=60.0, help="Between inventories.")
@click.option("--batch-seconds", type=click.FloatRange(min=0.05), default=10.0, help="Between batches of events.")
@click.option("--spool-bytes", type=click.IntRange(min=4096), default=64 * 2**20, help="Most events kept unsent.")
@click.option("--wait-seconds", type=click.FloatRange(min=0), default=60.0, help="How long a poll is held.")
@click.option("--once", is_flag=True, help="Collect, send, execute what waits, and end.")
def agent(**options: Any) -> None:
    """Enroll, log in, send this host's events and inventory, and execute orders, until SIGTERM."""
    log_to(sys.stderr, "INFO")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    asyncio.run(_run(Options(**options)))


async def _run(options: Options) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await run_agent(options, stopping)
