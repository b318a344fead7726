"""Connect to the first database host that accepts writes, and detect when that host stops answering.

asyncpg tries hosts in sequence within one shared time limit, so a first host without power would use up the whole
limit. This module tries all hosts at once, each with its own limit.
"""

import asyncio
import socket
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import asyncpg

from comms_api.database.address.parameters import NUMBERS, ONLY_IN_A_URL, SERVER_SETTINGS
from comms_api.database.failures import find_mistake, is_outage
from comms_api.errors import ConfigurationError

DEAD_HOST_SECONDS = 5
"""A host's connections are closed after this time without an acknowledgement."""

PROBES = {
    "keepalives_idle": (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 2),
    "keepalives_interval": (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 1),
    "keepalives_count": (socket.IPPROTO_TCP, "TCP_KEEPCNT", DEAD_HOST_SECONDS - 2),
    # This limit also covers sent data that is not acknowledged.
    "tcp_user_timeout": (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", DEAD_HOST_SECONDS * 1000),
    "keepalives": (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
}
"""libpq's parameters with their socket options and default values; a system may lack some of them."""


def _close_soon(connection: Any, *_waiters: object) -> None:
    asyncio.get_running_loop().call_soon(connection.terminate)


# A statement that takes too long closes its connection; asyncpg would ask the server to cancel it. A cancelled COMMIT
# that waits for the synchronous standby becomes visible on the primary, although a failover may still lose it
# (PostgreSQL manual, Synchronous Replication). If it is not cancelled, it keeps waiting and stays invisible. The
# server's `statement_timeout`, which does not apply to COMMIT, ends all other statements.
_Connection = type("Connection", (asyncpg.Connection,), {"_cancel_current_command": _close_soon})


async def connect_writable(host: Any = None, port: Any = None, **options: Any) -> Any:
    """Return a connection to the first host that answers and accepts writes.

    The options are asyncpg's, and libpq's where asyncpg has none. If no host is suitable, a refusal by one host, such
    as a wrong password, is raised rather than an outage of another.
    """
    numbers = {name: int(options.pop(name)) for name in NUMBERS & options.keys()}
    options["timeout"] = numbers.get("connect_timeout") or options.get("timeout")  # 0 would mean no limit
    settings = {name: options.pop(name) for name in SERVER_SETTINGS & options.keys()}
    options["server_settings"] = {**options.get("server_settings", {}), **settings}
    in_url = {name: options.pop(name) for name in ONLY_IN_A_URL & options.keys()}
    options["dsn"] = f"postgresql://?{urlencode(in_url)}"
    hosts = zip(host, port, strict=True) if isinstance(host, list) else [(host, port)]
    attempts = [asyncio.create_task(_connect(name, number, options, numbers)) for name, number in hosts]
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
        except Exception as error:  # noqa: BLE001 - another host may succeed
            errors.append(error)
    raise next((error for error in errors if find_mistake(error) or not is_outage(error)), errors[0])


async def _connect(host: str | None, port: object, options: Mapping[str, Any], numbers: Mapping[str, int]) -> Any:
    # A Unix socket has no TLS, whatever the URL or PGSSLMODE says (as in libpq).
    without_tls = {"ssl": False, "direct_tls": False} if (host or "").startswith("/") else {}
    try:
        connection: Any = await asyncpg.connect(
            connection_class=_Connection, **{**options, **without_tls, "host": host, "port": port}
        )
    except (ValueError, KeyError) as error:  # a wrong parameter or PG… variable, or a user number without a name
        if isinstance(error, OSError):  # an invalid certificate is both
            raise
        raise ConfigurationError(f"database_url, or a variable such as PGPORT: {error}") from None
    _probe(connection, numbers)
    return connection


def _probe(connection: Any, numbers: Mapping[str, int]) -> None:
    """Enable TCP keepalive, so that the system detects a dead host."""
    peer = connection._transport.get_extra_info("socket")  # noqa: SLF001 - asyncpg takes no options of sockets
    if peer.family == socket.AF_UNIX:
        return
    for parameter, (level, option, ours) in PROBES.items():
        value = numbers.get(parameter, ours)
        if hasattr(socket, option) and (value or parameter == "keepalives"):  # 0 is the system's default
            peer.setsockopt(level, getattr(socket, option), value)


def can_be_written(connection: Any) -> bool:
    """Return whether a connection is open and its server accepts writes, without a round trip.

    The server reports changed settings unasked, at the latest when it refuses a write.
    """
    if connection.is_closed():
        return False
    settings = connection.get_settings()
    return (
        getattr(settings, "in_hot_standby", "off") == "off"
        and getattr(settings, "default_transaction_read_only", "off") == "off"
    )
