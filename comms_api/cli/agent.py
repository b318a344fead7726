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

from comms_api.cli.shared.logs import log_as_text
from comms_api.client.agent import run_agent
from comms_api.client.options import Options
from comms_api.client.orders.trust import read_trusted_keys
from comms_api.text.printable import as_text

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, exists=True, path_type=Path)


def _urls(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse any URL but https://HOST:PORT, so that nothing is ever sent unencrypted."""
    for value in values:
        if not _is_usable(value):
            raise click.BadParameter(f"{value!r} does not have the form https://HOST:PORT")
    return tuple(dict.fromkeys(values))


def _is_usable(value: str) -> bool:
    try:
        url = urlsplit(value)
        return url.scheme == "https" and bool(url.hostname) and url.port != 0
    except ValueError:
        return False


@click.command(context_settings={"auto_envvar_prefix": "COMMS_AGENT", "show_default": True})
@click.option("--url", "urls", multiple=True, callback=_urls, help="URL of the agent API; may be repeated.")
@click.option("--srv", help="Name of SRV records that list the servers of the agent API, instead of --url.")
@click.option(
    "--return-seconds", type=click.FloatRange(min=1), default=600.0, help="Time until a return to the first choice."
)
@click.option(
    "--management-url",
    "management_urls",
    multiple=True,
    callback=_urls,
    help="URL of the management API; needed to enroll as a user; may be repeated.",
)
@click.option("--ca", type=_FILE, help="CA certificate of the server; by default the system's CAs.")
@click.option("--proxy", help="HTTP proxy; by default that of the environment.")
@click.option("--no-proxy", is_flag=True, help="Ignore the proxy of the environment.")
@click.option("--data-dir", type=_FOLDER, default=Path("agent"), help="Folder of the agent's spool.")
@click.option("--name", default=lambda: as_text(platform.node()), show_default="host name", help="Name of the agent.")
@click.option("--group", "groups", multiple=True, help="Group to enroll in; may be repeated.")
@click.option("--user", default="admin", help="User who enrolls the agent.")
@click.option("--password-file", type=_FILE, help="File with the user's password.")
@click.option("--enrollment-token-file", type=_FILE, help="File with an enrollment token, instead of a user.")
@click.option("--id", "agent_id", help="Id in an external database; the agent logs in without enrolling.")
@click.option("--key-file", type=_FILE, help="File with the key of --id, or with the new key of an enrolled agent.")
@click.option(
    "--trust-key",
    "trusted_keys",
    type=_FILE,
    multiple=True,
    callback=lambda _context, _parameter, files: tuple(read_trusted_keys(files)),
    help="Public key (PEM) of an operator: execute only orders that it has signed; may be repeated.",
)
@click.option("--log-file", "log_files", multiple=True, help="Pattern of log files to follow; may be repeated.")
@click.option("--from-start", is_flag=True, help="Read files that the agent has not read before from their start.")
@click.option("--inventory/--no-inventory", default=True, help="Report the system, packages, processes and interfaces.")
@click.option("--scan-interval-seconds", type=click.FloatRange(min=0.1), default=60.0, help="Time between inventories.")
@click.option("--batch-seconds", type=click.FloatRange(min=0.05), default=10.0, help="Time between batches of events.")
@click.option("--spool-bytes", type=click.IntRange(min=4096), default=64 * 2**20, help="Size limit of unsent events.")
@click.option("--wait-seconds", type=click.FloatRange(min=0), default=60.0, help="Time a poll may be held.")
@click.option("--once", is_flag=True, help="Collect, send, execute the waiting orders, and exit.")
def agent(**options: Any) -> None:
    """Run an agent on this host.

    It enrolls, logs in, sends the host's events and inventory, and executes orders, until SIGTERM.
    """
    if bool(options["urls"]) == bool(options["srv"]):
        raise click.UsageError("give --url or --srv")
    if options["srv"] and options["ca"] is None:
        raise click.UsageError("--srv needs --ca: whoever forges DNS could have a certificate of a public authority")
    log_as_text(sys.stderr, "INFO")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    asyncio.run(_run(Options(**options)))


async def _run(options: Options) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await run_agent(options, stopping)
