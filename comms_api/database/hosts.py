"""Connections to whichever of the database's hosts can be written to, which notice when it is gone.

asyncpg tries hosts one after the other within one time limit, so that the first, if its power is out, would use it up
for all. Here they are tried at once, each with a limit of its own.
"""

import asyncio
import socket
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

import asyncpg

from comms_api.database.address import TLS_FILES
from comms_api.database.failures import find_mistake, is_outage

DEAD_HOST_SECONDS = 5
"""How long a host may acknowledge nothing before its connections are closed."""

PROBES = {
    "TCP_KEEPIDLE": 2,
    "TCP_KEEPINTVL": 1,
    "TCP_KEEPCNT": DEAD_HOST_SECONDS - 2,
    "TCP_USER_TIMEOUT": DEAD_HOST_SECONDS * 1000,  # what was sent and is not acknowledged counts, too
}
"""Options of TCP sockets; a system need not have them all."""


def _close_soon(connection: Any, *_waiters: object) -> None:
    asyncio.get_running_loop().call_soon(connection.terminate)


# A statement that takes too long closes its connection; asyncpg would ask the server to cancel it. A COMMIT that waits
# for the synchronous standby, when cancelled, is kept on the primary alone and shown to others, who would be told of
# what may yet be lost (PostgreSQL's manual, Synchronous Replication). Left alone it goes on waiting, and nobody sees
# it. What else takes too long ends by the server's own `statement_timeout`, which spares COMMIT.
_Connection = type("Connection", (asyncpg.Connection,), {"_cancel_current_command": _close_soon})


async def connect_writable(host: Any = None, port: Any = None, **options: Any) -> Any:
    """Return a connection to the first of the hosts that answers and can be written to; options are asyncpg's.

    When there is none, raises what a host had against us, such as the password, rather than that it is away.
    """
    # asyncpg takes these in a URL alone.
    files = {name: options.pop(name) for name in TLS_FILES & options.keys()}
    options["dsn"] = f"postgresql://?{urlencode(files)}"
    hosts = zip(host, port, strict=True) if isinstance(host, list) else [(host, port)]
    attempts = [asyncio.create_task(_connect({**options, "host": name, "port": number})) for name, number in hosts]
    chosen = None
    try:
        chosen = await _first(attempts)
    finally:
        for attempt in attempts:
            attempt.cancel()
        for other in await asyncio.gather(*attempts, return_exceptions=True):
            if isinstance(other, asyncpg.Connection) and other is not chosen:
                other.terminate()
    return chosen


async def _first(attempts: Sequence["asyncio.Task[Any]"]) -> Any:
    errors: list[Exception] = []
    for attempt in asyncio.as_completed(attempts):
        try:
            return await attempt
        except Exception as error:  # noqa: BLE001 - another host may do better
            errors.append(error)
    raise next((error for error in errors if find_mistake(error) or not is_outage(error)), errors[0])


async def _connect(options: dict[str, Any]) -> Any:
    connection: Any = await asyncpg.connect(connection_class=_Connection, **options)
    _probe(connection)
    return connection


def _probe(connection: Any) -> None:
    """Let the system ask now and then whether the other host is still there."""
    peer = connection._transport.get_extra_info("socket")  # noqa: SLF001 - asyncpg takes no options of sockets
    if peer.family != socket.AF_UNIX:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in PROBES.items():
            if hasattr(socket, name):
                peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def can_be_written(connection: Any) -> bool:
    """Say whether a connection is open and its server is not a standby, as far as the server has told: no round trip.

    A server says so with the answer to the statement that it refused, if not before.
    """
    if connection.is_closed():
        return False
    told = connection.get_settings()
    return (
        getattr(told, "in_hot_standby", "off") == "off"
        and getattr(told, "default_transaction_read_only", "off") == "off"
    )
