"""Accept the connections of one listening socket within the limits of its site, and start TLS on each."""

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Sequence

import msgspec

from comms_api.addresses import Address, address_of, is_within, network_of
from comms_api.fairness.rounds import HANDSHAKES
from comms_api.http1.connection import Connection
from comms_api.http1.endpoint import Endpoint
from comms_api.http1.proxy_protocol import read_header
from comms_api.http1.readiness import wait_until_readable

logger = logging.getLogger(__name__)
ACCEPTED_AT_ONCE = 64
"""The number of connections to accept before other tasks run."""

PAUSE_SECONDS = 0.1
"""The pause in accepting connections after the system has refused to open another file."""

HEADER_SECONDS = 5.0
_SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Encryption(msgspec.Struct, frozen=True):
    """The encryption of a connection."""

    context: ssl.SSLContext
    handshake_seconds: float
    shutdown_seconds: float
    """The time to wait for the client's TLS close_notify."""


class _Opening:
    """A connection whose client has not finished its handshake."""

    def __init__(self, task: asyncio.Task[None] | None) -> None:
        self._task = task

    def abort(self) -> None:
        """Abort the handshake."""
        if self._task is not None:
            self._task.cancel()


class Acceptor:
    """Accepts connections until it is closed.

    A connection from one of the `proxies` must begin with a PROXY header, which names the client.

    A handshake costs as much CPU time as several requests, and it needs no token, so it is background work. A client
    enters the queue when its first bytes arrive. So clients that connect and send nothing delay no one, and cannot
    collect handshakes that all begin at once. Clients whose handshakes end together often send their requests together,
    too, so the first read waits for another turn.
    """

    def __init__(
        self, endpoint: Endpoint, listener: socket.socket, encryption: Encryption, proxies: Sequence[str] = ()
    ) -> None:
        self._endpoint = endpoint
        self._listener = listener
        self._encryption = encryption
        self._proxies = proxies
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        self._is_closed = False
        listener.settimeout(0)
        self._resume()

    def close(self) -> None:
        """Stop accepting."""
        if not self._is_closed:
            self._is_closed = True
            self._loop.remove_reader(self._listener)
            self._listener.close()

    async def wait_closed(self) -> None:
        """Return at once: the endpoint ends the connections."""

    def _resume(self) -> None:
        if not self._is_closed:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                connection, name = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _SHORTAGES:
                    raise
                self._pause(error)
                return
            connection.settimeout(0)
            task = self._loop.create_task(self._open(connection, address_of(name)))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def _pause(self, error: OSError) -> None:
        self._endpoint.notice("cannot accept a connection: %s; see LimitNOFILE or ulimit -n", error.strerror)
        self._endpoint.close_an_unproven_connection()
        self._loop.remove_reader(self._listener)
        self._loop.call_later(PAUSE_SECONDS, self._resume)

    async def _open(self, connection: socket.socket, peer: Address | None) -> None:
        """Start TLS for a client whose connection is admitted; otherwise close the connection."""
        try:
            client = await self._client(connection, peer)
        except (OSError, EOFError, ValueError) as error:
            self._endpoint.notice("refused a connection from the proxy %s: %s", peer and peer.host, error or "too slow")
            connection.close()
            return
        group = network_of(client.host) if client is not None else ""
        if not self._endpoint.admit(group):
            connection.close()
            return
        served, opening = Connection(self._endpoint, client, group, is_paused=True), _Opening(asyncio.current_task())
        self._endpoint.unproven[opening] = None
        try:
            async with asyncio.timeout(self._encryption.handshake_seconds):
                await self._wait_for_turn(connection, group)
                await self._start_tls(connection, served)
                await self._endpoint.turns.wait_for_turn(group, HANDSHAKES)
                served.update_reading()
        except BaseException as error:
            if served.has_begun:
                served.abort()
            else:
                self._endpoint.release(group)
            if not isinstance(error, OSError):  # TLS errors and timeouts are OSErrors, too
                raise
        finally:
            self._endpoint.unproven.pop(opening, None)

    async def _wait_for_turn(self, connection: socket.socket, group: str) -> None:
        try:
            await wait_until_readable(connection)
            await self._endpoint.turns.wait_for_turn(group, HANDSHAKES)
        except BaseException:
            connection.close()
            raise

    async def _start_tls(self, connection: socket.socket, served: Connection) -> None:
        await self._loop.connect_accepted_socket(
            lambda: served,
            connection,
            ssl=self._encryption.context,
            ssl_handshake_timeout=self._encryption.handshake_seconds,
            ssl_shutdown_timeout=self._encryption.shutdown_seconds,
        )

    async def _client(self, connection: socket.socket, peer: Address | None) -> Address | None:
        if peer is None or not is_within(peer.host, self._proxies):
            return peer
        async with asyncio.timeout(HEADER_SECONDS):
            return await read_header(connection) or peer
