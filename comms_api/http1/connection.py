"""Serve the requests of a connection with an ASGI app, one after the other.

A connection buffers little of the data that a client sends ahead: bodies that the app does not read, and pipelined
requests. TCP flow control holds back the remainder.
"""

import asyncio
import select
from collections.abc import Mapping
from typing import Any

from comms_api.addresses import Address, address_of
from comms_api.http1.answer import encode_refusal
from comms_api.http1.endpoint import AUTHENTICATED, HAS_LEFT, IS_HEAD, Endpoint
from comms_api.http1.exchange import Exchange
from comms_api.http1.reader import Head, Refused, RequestReader

AHEAD_BYTES_MAXIMUM = 64 * 1024
ANSWER_BYTES_MAXIMUM = 64 * 1024
"""The size of the buffered part of an answer from which on the app must wait."""

CLIENT_CHECK_SECONDS = 1.0
"""The interval of checks whether the client has disconnected, while the connection is not read."""


class Connection(asyncio.BufferedProtocol):
    """A client's connection.

    `client` is set if the peer is a proxy. `address_group` is the group that the endpoint counts the connection for.
    A connection that begins paused reads nothing until `update_reading` is called.
    """

    __slots__ = (
        "_base_scope",
        "_client",
        "_client_timer",
        "_exchange",
        "_idle_timer",
        "_is_closing",
        "_is_paused",
        "_is_slow",
        "_is_trusted",
        "_loop",
        "_stall_timer",
        "_transport",
        "_unread",
        "_writable",
        "address_group",
        "endpoint",
        "reader",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        client: Address | None = None,
        address_group: str | None = None,
        *,
        is_paused: bool = False,
    ) -> None:
        self.endpoint = endpoint
        self.address_group = address_group
        self.reader = RequestReader()
        self._client = client
        self._transport: Any = None
        self._loop = asyncio.get_running_loop()
        self._base_scope: dict[str, Any] = {}
        """The members of the scope that are the same for all its requests."""

        self._exchange: Exchange | None = None
        self._unread = b""
        self._is_paused = is_paused
        self._is_closing = self._is_slow = self._is_trusted = False
        self._idle_timer: asyncio.TimerHandle | None = None
        self._client_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._writable: asyncio.Future[None] | None = None

    @property
    def has_begun(self) -> bool:
        """Whether the endpoint has registered the connection, and so stops counting it when it ends."""
        return bool(self._base_scope)

    def connection_made(self, transport: Any) -> None:
        """Register at the endpoint and wait for the first request."""
        self._transport = transport
        self._client = self._client or address_of(transport.get_extra_info("peername"))
        tls = transport.get_extra_info("ssl_object")
        extensions = {} if tls is None else {"tls": {"client_cert_name": common_name(tls.getpeercert())}}
        self._base_scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "scheme": "http" if tls is None else "https",
            "root_path": "",
            "server": address_of(transport.get_extra_info("sockname")),
            "extensions": extensions,
        }
        transport.set_write_buffer_limits(ANSWER_BYTES_MAXIMUM, 0)
        if tls is not None:
            transport.set_read_buffer_limits(1, 0)  # otherwise uvloop reads up to 768 KiB ahead of decryption
        if self._is_paused:
            transport.pause_reading()
        self.endpoint.add(self)
        if self.endpoint.is_ending:
            self.close()
        else:
            self._become_idle()

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Return the buffer that all connections share; each connection copies its bytes from it at once."""
        return self.endpoint.read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Read the new bytes, but not beyond the request in progress."""
        if not self._is_closing:
            data = bytes(self.endpoint.read_buffer[:nbytes])
            self._unread = self._unread + data if self._unread else data
            self._read()

    def connection_lost(self, _error: Exception | None) -> None:
        """Tell the app, and break reference cycles, which would live until the next garbage collection."""
        self._is_closing = True
        self._stop_idling()
        self._stop_checking()
        self.reader.close()
        exchange, self._exchange, self._unread = self._exchange, None, b""
        if exchange is not None:
            exchange.leave()
        self.resume_writing()
        self.endpoint.remove(self)
        self._transport = None

    def pause_writing(self) -> None:
        """Make the app wait while the client does not read; abort if the client stalls for too long."""
        self._is_slow = True
        self._writable = self._loop.create_future()
        self._stall_timer = self._loop.call_later(self.endpoint.limits.stall_seconds, self.abort)

    def resume_writing(self) -> None:
        """Let the app continue."""
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        writable, self._writable = self._writable, None
        if writable is not None:
            writable.set_result(None)

    def write(self, data: bytes) -> None:
        """Send to the client, unless it has disconnected."""
        if data and not self._has_ended():
            self._transport.write(data)

    def _has_ended(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def has_left(self) -> bool:
        """Return whether the client has closed the connection, even if this has not been read yet."""
        return self._has_ended() or _has_left(self._transport)

    async def wait_until_writable(self) -> None:
        """Return once the client has read enough, or has disconnected."""
        if self._writable is not None:
            await asyncio.shield(self._writable)
        elif self._has_ended():
            await asyncio.sleep(0)  # let `connection_lost` run and tell the app

    def _read(self) -> None:
        try:
            while self._unread and not self._is_closing and not (self._exchange and self.reader.is_complete):
                self._unread = self.reader.read(self._unread)
                if self._exchange is not None:
                    self._exchange.wake()
                elif self.reader.head is not None:
                    self._begin(self.reader.head)
        except Refused as refused:
            if self._exchange is not None:
                self._exchange.refuse(refused)
            else:
                self.write(encode_refusal(refused, self.endpoint.date_line()))
                self.close()
        self.update_reading()

    def _begin(self, head: Head) -> None:
        self._stop_idling()
        self._is_slow = False
        scope = {
            **self._base_scope,
            "client": self.endpoint.proxies.find_client(self._client, head.headers),
            "http_version": head.version,
            "method": "GET" if head.method == "HEAD" else head.method,
            "path": head.path,
            "raw_path": head.raw_path,
            "query_string": head.query_string,
            "headers": head.headers,
            "state": {},
            HAS_LEFT: self.has_left,
            IS_HEAD: head.method == "HEAD",
        }
        self._exchange = Exchange(self, head)
        self._exchange.begin(scope)

    def answered(self, *, closes: bool) -> None:
        """Continue with the next request, or close the connection."""
        if self._exchange is not None and self._exchange.state.get(AUTHENTICATED):
            self._is_trusted = True
        self._exchange = None
        if closes or self.reader.is_last or not self.reader.is_complete or self.endpoint.is_ending:
            self._close_after_answer()
        else:
            self.reader.restart()
            self._become_idle()
            self._read()

    def _close_after_answer(self) -> None:
        """Close after an answer; a slow client gets `idle_seconds` to read the buffered rest."""
        if self._is_slow:
            self._is_closing = True
            self._become_idle()
        else:
            self.close()

    def update_reading(self) -> None:
        """Read from the network while the buffer has room; pause reading otherwise."""
        if self._is_closing:
            return
        is_enough = len(self._unread) + self.reader.body_bytes > AHEAD_BYTES_MAXIMUM
        if is_enough and not self._is_paused:
            self._transport.pause_reading()
            self._check_client()
        elif self._is_paused and not is_enough:
            self._transport.resume_reading()
            self._stop_checking()
        self._is_paused = is_enough

    def _check_client(self) -> None:
        """Check whether the client has disconnected, since a paused transport does not report it."""
        if self._has_ended() or (self.reader.is_complete and _has_left(self._transport)):
            self.abort()
            self.connection_lost(None)
        else:
            self._client_timer = self._loop.call_later(CLIENT_CHECK_SECONDS, self._check_client)

    def _stop_checking(self) -> None:
        if self._client_timer is not None:
            self._client_timer.cancel()
            self._client_timer = None

    def _become_idle(self) -> None:
        if not self._is_trusted:
            self.endpoint.unproven[self] = None
        self._idle_timer = self._loop.call_later(self.endpoint.limits.idle_seconds, self.close)

    def _stop_idling(self) -> None:
        self.endpoint.unproven.pop(self, None)
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    def close_if_idle(self) -> None:
        """Close, unless a request is in progress."""
        if self._exchange is None:
            self.close()

    def close(self) -> None:
        """Close once all written bytes have been sent."""
        self._is_closing = True
        self._stop_idling()
        self._stop_checking()
        self._unread = b""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()


def _has_left(transport: Any) -> bool:
    """Ask the kernel whether the client has closed the connection; unread bytes do not hide this from it."""
    socket = transport.get_extra_info("socket")
    descriptor = -1 if socket is None else socket.fileno()
    if descriptor < 0:
        return True
    poll = select.poll()
    poll.register(descriptor, getattr(select, "POLLRDHUP", 0))  # only Linux has it
    return bool(poll.poll(0))


def common_name(certificate: Mapping[str, Any] | None) -> str | None:
    """Return the common name of a certificate's subject, as `ssl` describes it; None without a certificate.

    Without a common name, or with several, this is the empty string, which matches no agent.
    """
    if not certificate:
        return None
    names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    return str(names[0]) if len(names) == 1 else ""
