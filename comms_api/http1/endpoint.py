"""The state that the connections of one site share: limits, counts, and shutdown."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from email.utils import formatdate
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias

import msgspec

from comms_api.fairness.rounds import RoundQueue
from comms_api.http1.forwarded import TrustedProxies
from comms_api.http1.requests import RequestCount

logger = logging.getLogger(__name__)

AsgiApp: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]
Charge: TypeAlias = Callable[[Any, float], None]
Begin: TypeAlias = Callable[[Any], None]
CountAnswer: TypeAlias = Callable[[Any, int], None]
Report: TypeAlias = Callable[[Any, int | None, int, float], None]
LogFailure: TypeAlias = Callable[[Any, Exception], None]

AUTHENTICATED = "comms_api.authenticated"
"""A key of a scope's `state`: an app sets it to true when the request has shown a valid token."""

AT_END = "comms_api.at_end"
"""A key of a scope's `state`: functions to call once the answer has been sent or its client has disconnected."""

AT_ANSWER = "comms_api.at_answer"
"""A key of a scope's `state`: functions to call once the app begins its answer, or ends without one."""

CLOSES = "comms_api.closes"
"""A key of a scope's `state`: an app sets it to true to close the connection after the answer."""

METER = "comms_api.meter"
"""A key of a scope's `state`: the `Metered` that runs the request."""

READ_BYTES_MAXIMUM = 96 * 1024
"""The number of a connection's bytes to decrypt before other tasks run."""

NEARLY_FULL = 0.9
NOTICE_SECONDS = 60.0
UNLIMITED = 2**63

IS_HEAD = "comms_api.is_head"
"""A key of a request's scope: whether the request is a HEAD, which an app receives as a GET.

The answer ends with its head: the app may not send a body, and sees its client as disconnected.
"""

HAS_LEFT = "comms_api.has_left"
"""A key of a request's scope: a function that asks the kernel whether the client has closed its connection.

It reads nothing, so it also detects a client that disconnected while this process was frozen or busy.
"""


def charge_nobody(_scope: Any, _seconds: float) -> None:
    """Charge no CPU time."""


def count_no_answer(_scope: Any, _size: int) -> None:
    """Do not count answers."""


def log_failure(_scope: Any, error: Exception) -> None:
    """Log the error of an app that did not answer."""
    logger.error("the app failed", exc_info=error)


class Limits(msgspec.Struct, frozen=True):
    """The bounds of a site and of each of its connections."""

    idle_seconds: float
    """The time limit for the head of a request."""

    body_seconds: float
    """The time limit for a body, from when the app asks for it; `body_seconds_of` overrides it by path."""

    body_bytes: int
    """The number of bytes of an unread body to discard before closing the connection."""

    discard_seconds: float = 5.0
    """The time to discard an unread body before closing the connection."""

    stall_seconds: float = 30.0
    """The time limit for a client to read the buffered part of an answer."""

    connections: int = UNLIMITED
    connections_per_address: int = UNLIMITED
    """For an IPv6 address, the limit of its /64."""

    body_seconds_of: Mapping[str, float] = MappingProxyType({})


class Accounting(msgspec.Struct, frozen=True):
    """Charges the requests of a site to their clients, and reports them."""

    charge: Charge = charge_nobody
    """Called after each request with its scope and its CPU seconds on the event loop."""

    count_answer: CountAnswer = count_no_answer
    """Called before the last part of an answer is sent, with the scope and the size of that part. Unless the answer is
    a stream, this part is the whole answer.
    """

    begin: Begin | None = None
    """Called with the scope of each request before the app, in the same task."""

    turns: RoundQueue | None = None
    """The pieces of large answers, and of large bodies that are discarded, wait for these turns."""

    reports: Sequence[Report] = ()
    """Called after each request with its scope, the status of its answer, the bytes of the body, and the seconds since
    the head of the request was read. The status is None if the client disconnected before the answer began.
    """

    log_failure: LogFailure = log_failure
    """Called with the scope and the error of a request that the app did not answer, or whose answer it cut off."""


NO_ACCOUNTING = Accounting()


class Abortable(Protocol):
    """A connection that can be closed from outside."""

    def abort(self) -> None:
        """Close at once."""


class Closable(Abortable, Protocol):
    """A connection that serves requests."""

    def close_if_idle(self) -> None:
        """Close, unless a request is in progress."""

    address_group: str | None
    """The group of addresses that the connection counts for, if it was admitted."""


class Endpoint:
    """The app and the limits of one site, and its open connections.

    Several sites may share `requests`. `proxies` finds the clients of forwarded requests.
    """

    def __init__(
        self,
        app: AsgiApp,
        limits: Limits,
        accounting: Accounting = NO_ACCOUNTING,
        requests: RequestCount | None = None,
        proxies: TrustedProxies | None = None,
    ) -> None:
        self.app = app
        self.accounting = accounting
        self.turns = accounting.turns or RoundQueue()
        self.requests = requests or RequestCount()
        self.proxies = proxies or TrustedProxies()
        self.limits = limits
        self.is_ending = False
        self.read_buffer = memoryview(bytearray(READ_BYTES_MAXIMUM))
        self.unproven: dict[Abortable, None] = {}
        """Connections in their handshake, or waiting for a client that has shown no token; oldest first."""

        self._connections: set[Closable] = set()
        self._admitted: Counter[str] = Counter()
        self._admitted_total = 0
        self._noticed_at: dict[str, float] = {}
        self._closed = asyncio.Event()
        self._date_line = b""
        self._dated_at = 0

    def admit(self, group: str) -> bool:
        """Count a connection from a group of addresses and return True, or return False if that exceeds a limit.

        When the site is full, the oldest connection in `unproven` is closed to make room.
        """
        limits, held = self.limits, self._admitted[group]
        if held >= limits.connections_per_address:
            self.notice("refused a connection: %s holds %d (connections_per_address_maximum)", group, held)
            return False
        if self._admitted_total >= limits.connections and not self.close_an_unproven_connection():
            self.notice("refused a connection: all %d are in use; see LimitNOFILE or ulimit -n", limits.connections)
            return False
        self._admitted[group] += 1
        self._admitted_total += 1
        if self._admitted_total >= limits.connections * NEARLY_FULL:
            self.notice("%d of %d connections are in use", self._admitted_total, limits.connections)
        return True

    def release(self, group: str) -> None:
        """Stop counting a connection that was admitted."""
        self._admitted_total -= 1
        self._admitted[group] -= 1
        if not self._admitted[group]:
            del self._admitted[group]

    def close_an_unproven_connection(self) -> bool:
        """Close the oldest connection in `unproven`; return whether there was one."""
        if not self.unproven:
            return False
        oldest = next(iter(self.unproven))
        del self.unproven[oldest]  # closing ends in a later cycle of the event loop; do not count it twice
        oldest.abort()
        return True

    def notice(self, message: str, *arguments: object) -> None:
        """Log a warning about clients, at most once a minute for each message."""
        now = time.monotonic()
        if now - self._noticed_at.get(message, -NOTICE_SECONDS) >= NOTICE_SECONDS:
            self._noticed_at[message] = now
            logger.warning(message, *arguments)

    def add(self, connection: Closable) -> None:
        """Register an open connection."""
        self._connections.add(connection)

    def remove(self, connection: Closable) -> None:
        """Forget a connection that has closed."""
        if connection in self._connections and connection.address_group is not None:
            self.release(connection.address_group)
        self._connections.discard(connection)
        if self.is_ending and not self._connections:
            self._closed.set()

    def end(self) -> None:
        """Close idle connections now, and each other connection after its answer."""
        self.is_ending = True
        for connection in list(self._connections):
            connection.close_if_idle()

    async def wait_until_closed(self) -> None:
        """Return once no connection is left, after `end`."""
        if self._connections:
            await self._closed.wait()

    def abort(self) -> None:
        """Abort the remaining connections."""
        for connection in list(self._connections):
            connection.abort()

    def date_line(self) -> bytes:
        """Return the Date header (RFC 9110, 6.6.1), which is formatted at most once a second."""
        now = int(time.time())
        if now != self._dated_at:
            self._date_line, self._dated_at = f"date: {formatdate(now, usegmt=True)}\r\n".encode(), now
        return self._date_line
