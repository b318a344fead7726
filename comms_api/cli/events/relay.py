"""`comms-api events relay`: copy events from the stream to PostgreSQL or standard output."""

import asyncio
import logging
import re
import signal
import sys
from contextlib import AsyncExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import uvloop

from comms_api.cli.shared.logs import log_as_set
from comms_api.cli.shared.node_options import CONFIG
from comms_api.database.connect import database
from comms_api.database.connection import Engine
from comms_api.database.failures import find_mistake, is_outage
from comms_api.database.uuid7 import DatabaseClock
from comms_api.duties.health import HealthLog
from comms_api.errors import ConfigurationError
from comms_api.events.postgresql_sink import PostgresqlSink
from comms_api.events.sinks import Sink, check_jetstream
from comms_api.events.stdout_sink import StdoutSink
from comms_api.settings import Settings, current_settings

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
RELAY_LOOPS = 2
"""While one loop stores its messages, the other fetches the next ones."""

_CONSUMER = re.compile(r"[^\s.*>/\\]+")


@click.command()
@CONFIG
@click.option("--to", "target", type=click.Choice(["postgresql", "stdout"]), default="postgresql", help="Destination.")
@click.option("--consumer", help="Name under which the servers keep the position; default: relay-TO.")
@click.option("--once", is_flag=True, help="Exit when the stream has no more events.")
def relay(config: Path | None, target: str, consumer: str | None, *, once: bool) -> None:
    """Copy events from JetStream to PostgreSQL or standard output.

    Nodes with `events_sink = "jetstream"` write to its stream.

    It runs until SIGTERM, and writes each event as a line of JSON to standard output. Relays with the same consumer
    share the work. A new consumer begins with the oldest event of the stream.
    """
    settings = current_settings(config)
    log_as_set(sys.stderr, settings)
    check_jetstream(settings)
    if consumer is not None and not _CONSUMER.fullmatch(consumer):
        raise ConfigurationError(f"--consumer: a name must not contain a space, dot, *, > or slash: {consumer!r}")
    if target == "stdout" and sys.__stdout__ is None:  # a file opened later would get its descriptor
        raise ConfigurationError("--to stdout: standard output is closed")
    uvloop.run(_relay(settings, target, consumer or f"relay-{target}", once=once))


async def _relay(settings: Settings, target: str, consumer: str, *, once: bool) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with AsyncExitStack() as stack:
        sink: Sink = StdoutSink() if target == "stdout" else await _open_postgresql(stack, settings, stopping)
        # Lines on standard output keep the order of the stream, so one loop writes them; rows have ids instead.
        loops = 1 if target == "stdout" else RELAY_LOOPS
        relay: Any = import_module("comms_api.events.jetstream.relay").Relay(settings, sink, consumer)
        await relay.run(stopping, loops=loops, ends_when_drained=once)


async def _open_postgresql(stack: AsyncExitStack, settings: Settings, stopping: asyncio.Event) -> PostgresqlSink:
    engine, clock = await stack.enter_async_context(database(settings)), DatabaseClock()
    health = HealthLog(logger, "relay")
    while not stopping.is_set() and (error := await _synchronise(engine, clock)):
        health.note("the database is away", str(error))
        await asyncio.sleep(RETRY_SECONDS)
    health.note(None)
    return PostgresqlSink(engine)


async def _synchronise(engine: Engine, clock: DatabaseClock) -> Exception | None:
    """Read the time of the database; return the error if there is an outage."""
    try:
        async with engine.begin() as connection:
            await clock.synchronise(connection)
    except Exception as error:
        if is_outage(error) and not find_mistake(error):
            return error
        raise
    return None
