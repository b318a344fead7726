"""Copy the events of the stream to a sink, and acknowledge each message when the sink has stored it.

The servers keep the acknowledgements under the consumer's name. So relays with the same name share the work, and a
restarted relay continues where the last one stopped. A batch that is delivered twice has the same id both times.

Needs the extra `jetstream`: this module is imported by name.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from nats.aio.msg import Msg
from nats.errors import Error
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.client import JetStreamContext

from comms_api.database.failures import explain_outage
from comms_api.duties.health import DutyHealth, HealthLog
from comms_api.duties.repeating import repeating
from comms_api.errors import Malformed, Unavailable
from comms_api.events.jetstream.connection import STREAM, JetStream
from comms_api.events.jetstream.messages import decode_message
from comms_api.events.sinks import Sink
from comms_api.settings import Settings

logger = logging.getLogger(__name__)

MESSAGES_AT_ONCE = 64
FETCH_SECONDS = 0.25
"""A relay waits at most this long for messages, so it notices a request to stop within this time."""

ACK_DATABASE_TIMEOUTS = 3
"""After this many `database_timeout_seconds` without an acknowledgement, another relay gets the messages."""

UNACKNOWLEDGED_MAXIMUM = 4096
RETRY_SECONDS = 1.0


class Relay:
    """One durable consumer of the stream; the servers keep its progress under the consumer's name."""

    def __init__(self, settings: Settings, sink: Sink, consumer: str) -> None:
        self._stream = JetStream(settings)
        self._sink = sink
        self._database = HealthLog(logger, "relay")
        self._consumer = consumer
        self._drain_seconds = settings.drain_seconds
        self._ack_seconds = ACK_DATABASE_TIMEOUTS * settings.database_timeout_seconds

    async def run(self, stopping: asyncio.Event, *, loops: int, ends_when_drained: bool) -> None:
        """Relay until `stopping`, and then finish the fetched messages within `drain_seconds`.

        With `ends_when_drained`, also return when the stream has no more messages. Several loops keep a sink busy that
        stores in groups; a single loop keeps the order of the stream.
        """
        duties = [*self._sink.duties(), *self._stream.duties()]
        async with repeating(duties, DutyHealth(explain_outage)), _ended_after(stopping, self._drain_seconds):
            try:
                await asyncio.gather(*(self._relay(stopping, ends_when_drained) for _ in range(loops)))
                if self._stream.client.is_connected:
                    with suppress(Error):
                        await self._stream.client.flush()
            finally:
                stopping.set()

    async def _relay(self, stopping: asyncio.Event, ends_when_drained: bool) -> None:  # noqa: FBT001
        while not stopping.is_set():
            try:
                await self._stream.wait_until_ready(RETRY_SECONDS)
                if await self._relay_while_connected(stopping, ends_when_drained):
                    return
            except Unavailable:
                continue
            except Error as error:
                self._stream.report(error)
                await asyncio.sleep(RETRY_SECONDS)

    async def _relay_while_connected(self, stopping: asyncio.Event, ends_when_drained: bool) -> bool:  # noqa: FBT001
        client, subscription = self._stream.client, await self._subscribe()
        try:
            while not stopping.is_set() and client is self._stream.client:
                messages = await _fetch(subscription)
                if not all(await asyncio.gather(*map(self._store, messages))):
                    await asyncio.sleep(RETRY_SECONDS)
                if ends_when_drained and len(messages) < MESSAGES_AT_ONCE and await _is_drained(subscription):
                    return True
            return stopping.is_set()
        finally:
            with suppress(Error):
                await subscription.unsubscribe()

    async def _subscribe(self) -> JetStreamContext.PullSubscription:
        config = ConsumerConfig(
            durable_name=self._consumer,
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=self._ack_seconds,
            max_ack_pending=UNACKNOWLEDGED_MAXIMUM,
        )
        context = self._stream.context
        await context.add_consumer(STREAM, config)  # does nothing if the consumer exists
        return await context.pull_subscribe_bind(self._consumer, stream=STREAM)

    async def _store(self, message: Msg) -> bool:
        """Store a message, and return True; return False if it must be delivered again because of an outage."""
        try:
            batch = decode_message(message.headers or {}, message.data)
        except Malformed as error:
            logger.error("relay: skipped a message: %s", error)  # noqa: TRY400 - a traceback would add nothing
            await message.term()
            return True
        try:
            await self._sink.append(batch)
        except Unavailable:  # another relay stores a batch with the same key
            await message.nak(RETRY_SECONDS)
            return False
        except Exception as error:
            if not (outage := explain_outage(error)):
                raise
            self._database.note(*outage)
            await message.nak(RETRY_SECONDS)
            return False
        self._database.note(None)
        await message.ack()
        return True


@asynccontextmanager
async def _ended_after(stopping: asyncio.Event, seconds: float) -> AsyncIterator[None]:
    """Cancel the block if it is still running this many seconds after `stopping`."""

    async def limit_it() -> None:
        await stopping.wait()
        limit.reschedule(asyncio.get_running_loop().time() + seconds)

    limit = asyncio.timeout(None)
    try:
        async with limit:
            limiting = asyncio.create_task(limit_it())
            try:
                yield
            finally:
                limiting.cancel()
    except TimeoutError:
        if not limit.expired():
            raise
        logger.warning("relay: messages that are not stored after %g s will be delivered again", seconds)


async def _fetch(subscription: JetStreamContext.PullSubscription) -> Sequence[Msg]:
    try:
        return await subscription.fetch(MESSAGES_AT_ONCE, FETCH_SECONDS)
    except TimeoutError:  # there are no messages
        return []


async def _is_drained(subscription: JetStreamContext.PullSubscription) -> bool:
    info = await subscription.consumer_info()
    return not info.num_pending and not info.num_ack_pending
