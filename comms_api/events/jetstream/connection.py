"""The permanent connection to the servers of NATS JetStream, and the stream on these.

It needs the extra `jetstream`, so this module is imported by name, and only if the settings name JetStream.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

from nats.aio.client import Client
from nats.errors import Error
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.client import JetStreamContext
from nats.js.errors import APIError, NotFoundError, ServiceUnavailableError

from comms_api.duties.repeating import Duty
from comms_api.errors import ConfigurationError, Unavailable
from comms_api.events.jetstream.messages import SUBJECTS, Message
from comms_api.events.meters import StreamBacklog, StreamMeter
from comms_api.settings import Settings

STREAM = "comms_events"
DUPLICATES_SECONDS = 120.0
DAY_SECONDS = 86_400.0

CONNECT_SECONDS = 2
PING_SECONDS = 5
PINGS_OUTSTANDING_MAXIMUM = 2
"""A server that stops answering is noticed within ten seconds."""

RECONNECT_SECONDS = 1
CLOSE_SECONDS = 2.0
BACKLOG_SECONDS = 2.0
ABSENCE_SECONDS = 0.5
"""A request waits this long for a connection: long enough to find another server, but not a noticeable hang."""

ATTEMPT_SECONDS = 2.0
ATTEMPT_PAUSE_SECONDS = 0.1
IN_FLIGHT_MAXIMUM = 512
PENDING_BYTES_MAXIMUM = 64 * 2**20
DUPLICATE_IN_PROCESS = 10158
"""JetStream's API error for a message whose earlier attempt is still waiting for the quorum."""


class JetStream:
    """Publishes to the stream through any of the servers; raises `ConfigurationError` for unreadable files."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._options = connection_options(settings)
        self._ready, self._changed = asyncio.Event(), asyncio.Event()
        self._changed.set()
        self._trouble: Exception | None = None
        self._opened = AsyncExitStack()
        self._slots = asyncio.Semaphore(IN_FLIGHT_MAXIMUM)
        self.meter = StreamMeter(self._ready)
        self.client = Client()
        self.context = JetStreamContext(self.client)

    async def wait_until_ready(self, seconds: float | None = None) -> None:
        """Wait until the connection is open and the stream exists; raises `Unavailable` after this many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._ready.wait()
        except TimeoutError:
            raise Unavailable("The event stream cannot be reached; try again later.") from None

    def duties(self) -> list[Duty]:
        """Return the duty that connects and ensures that the stream exists, at the start and after each failure."""
        return [Duty("event stream", self._prepare, wake=self._changed, finish=self._opened.aclose)]

    async def _prepare(self) -> None:
        trouble, self._trouble = self._trouble, None
        try:
            if not (self.client.is_connected or self.client.is_reconnecting):
                await self._connect()
            if self.client.is_connected:
                await ensure_stream(self.context, self._settings)
                self._ready.set()
        except (Error, OSError, TimeoutError) as error:
            trouble = self._trouble or error
        finally:
            _insist_on_cancellation()
        if trouble is not None or not self.client.is_connected:
            raise Unavailable("the servers cannot be used") from trouble

    async def _connect(self) -> None:
        await self._opened.aclose()
        self.client = Client()
        self._opened.push_async_callback(_close, self.client)
        self.context = JetStreamContext(self.client, timeout=self._settings.nats_timeout_seconds)
        async with asyncio.timeout(CONNECT_SECONDS * (1 + len(self._settings.nats_servers))):
            await self.client.connect(
                **self._options,
                error_cb=self._on_error,
                disconnected_cb=self._on_disconnected,
                reconnected_cb=self._on_connected,
                closed_cb=self._on_disconnected,
            )
        self._trouble = None  # forget the errors of servers that were tried before

    async def _on_connected(self) -> None:
        self._ready.set()
        self._changed.set()  # check the stream on these servers, while messages are published already

    async def _on_disconnected(self) -> None:
        self._ready.clear()
        self._changed.set()

    async def _on_error(self, error: Exception) -> None:
        self.report(error)

    def report(self, error: Exception) -> None:
        """Report an error of a user of the connection: the duty fails with it, and checks the stream again."""
        self._trouble = error
        self._changed.set()

    @property
    def message_bytes_maximum(self) -> int:
        """Return the maximum size of a message on the connected server, headers included."""
        return self.client.max_payload

    async def publish(self, message: Message) -> None:
        """Return once a quorum has acknowledged the message; raises `Unavailable` if it does not in time.

        An unacknowledged message may be stored or not. If it is published again, it is stored once.
        """
        loop = asyncio.get_running_loop()
        begun_at, ends_at = loop.time(), loop.time() + self._settings.nats_timeout_seconds
        try:
            async with asyncio.timeout_at(ends_at), self._slots:
                await self._try(lambda seconds: self._publish_once(message, seconds), ends_at)
        except (Error, TimeoutError) as error:
            self.report(error)
            raise Unavailable("The event stream does not acknowledge; try again later.") from error
        self.meter.seconds.observe(loop.time() - begun_at)

    async def find_backlog(self) -> StreamBacklog | None:
        """Return the messages in the stream, or None if its servers do not answer in time."""
        try:
            async with asyncio.timeout(BACKLOG_SECONDS):
                stream = await self.context.stream_info(STREAM)
                consumers = await self.context.consumers_info(STREAM)
        except (Error, TimeoutError):
            return None
        unread = {one.name: (one.num_pending or 0) + (one.num_ack_pending or 0) for one in consumers}
        return StreamBacklog(stream.state.bytes, stream.config.max_bytes or 0, unread)

    async def _try(self, attempt: Callable[[float], Awaitable[None]], ends_at: float) -> None:
        while True:
            remaining = ends_at - asyncio.get_running_loop().time()
            try:
                await attempt(min(remaining, ATTEMPT_SECONDS))
            except (Error, TimeoutError) as error:
                if not _may_pass(error) or remaining < 2 * ATTEMPT_PAUSE_SECONDS:
                    raise
                await asyncio.sleep(ATTEMPT_PAUSE_SECONDS)
            else:
                return

    async def _publish_once(self, message: Message, seconds: float) -> None:
        await self.wait_until_ready(min(seconds, ABSENCE_SECONDS))
        if self.client.pending_data_size + len(message.payload) > PENDING_BYTES_MAXIMUM:
            raise Unavailable("The event stream accepts no messages now; try again later.")
        await self.context.publish(
            message.subject, message.payload, timeout=seconds, stream=STREAM, headers={**message.headers}
        )


async def _close(client: Client) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await client.close()


def _insist_on_cancellation() -> None:
    """End this task if it was cancelled: Python 3.11's `wait_for` may hide a cancellation when an answer arrives."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _may_pass(error: BaseException) -> bool:
    """Return whether an immediate retry may succeed: the quorum elects a leader, or the connection has changed."""
    if isinstance(error, APIError) and not isinstance(error, ServiceUnavailableError):
        return error.err_code == DUPLICATE_IN_PROCESS
    return isinstance(error, Error | TimeoutError)


async def ensure_stream(context: JetStreamContext, settings: Settings) -> None:
    """Create the stream if it does not exist, and apply the settings' replicas and limits."""
    limits = {
        "num_replicas": settings.nats_replicas,
        "max_bytes": settings.nats_stream_bytes,
        "max_age": settings.nats_stream_days * DAY_SECONDS,
    }
    try:
        config = (await context.stream_info(STREAM)).config
    except NotFoundError:
        await context.add_stream(_new_stream(), **limits)
        return
    if any(getattr(config, name) != value for name, value in limits.items()):
        await context.update_stream(config, **limits)


def _new_stream() -> StreamConfig:
    return StreamConfig(
        name=STREAM,
        description="Stateless events of agents, acknowledged to them",
        subjects=[SUBJECTS],
        storage=StorageType.FILE,
        retention=RetentionPolicy.LIMITS,
        # When the stream is full, agents get 503: acknowledged events are never dropped to make room.
        discard=DiscardPolicy.NEW,
        duplicate_window=DUPLICATES_SECONDS,
    )


def connection_options(settings: Settings) -> dict[str, Any]:
    """Return the options of a connection; raises `ConfigurationError` for unreadable files."""
    options: dict[str, Any] = {
        "servers": list(settings.nats_servers),
        "name": "comms-api",
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": RECONNECT_SECONDS,
        "connect_timeout": CONNECT_SECONDS,
        "ping_interval": PING_SECONDS,
        "max_outstanding_pings": PINGS_OUTSTANDING_MAXIMUM,
        # The client would wait for room forever; `publish` refuses messages before this limit is reached.
        "pending_size": 2 * PENDING_BYTES_MAXIMUM,
    }
    if settings.nats_ca is not None:
        try:
            options["tls"] = ssl.create_default_context(cafile=settings.nats_ca)
        except OSError as error:  # ssl.SSLError is an OSError
            raise ConfigurationError(f"nats_ca: {error}") from None
    if settings.nats_credentials is not None:
        options["user_credentials"] = str(settings.nats_credentials)
    return options
