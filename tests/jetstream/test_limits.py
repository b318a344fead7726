"""The limits of a stream come from the settings, and a node handles a stream that reaches them."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.duties import performing
from support.events import batch_of, incompressible
from support.nats import NatsServer, nats_servers
from support.server import new_id
from support.waiting import PATIENCE

from comms_api.database.connection import Engine
from comms_api.database.failures import explain_outage
from comms_api.database.uuid7 import DatabaseClock
from comms_api.duties.health import DutyHealth
from comms_api.duties.repeating import repeat
from comms_api.errors import Unavailable
from comms_api.events.jetstream.connection import DAY_SECONDS, STREAM, JetStream
from comms_api.events.jetstream.messages import Message, encode_message
from comms_api.events.jetstream.sink import JetStreamSink
from comms_api.events.quarantine import Quarantine
from comms_api.fairness.slices import Slices
from comms_api.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def server(scratch: Path) -> Iterator[NatsServer]:
    with nats_servers(scratch / f"nats {new_id()}", 1) as [running]:
        yield running


@asynccontextmanager
async def _stream(server: NatsServer, **limits: Any) -> AsyncIterator[JetStream]:
    defaults = {"nats_timeout_seconds": 60, "nats_replicas": 1}
    stream = JetStream(Settings(events_sink="jetstream", nats_servers=(server.url,), **defaults | limits))
    async with performing(stream):
        await stream.wait_until_ready(PATIENCE)
        yield stream


def _message() -> Message:
    return encode_message(batch_of(new_id(), new_id(), [incompressible(100_000)]))


async def test_a_full_stream_refuses_messages_until_it_is_enlarged(server: NatsServer) -> None:
    async with _stream(server, nats_stream_bytes=2**20) as stream:
        for _ in range(9):
            await stream.publish(_message())
    async with _stream(server, nats_stream_bytes=2**20, nats_timeout_seconds=1) as stream:
        outcomes = await asyncio.gather(*(stream.publish(_message()) for _ in range(9)), return_exceptions=True)
        assert Unavailable in map(type, outcomes)
        kept = (await stream.context.stream_info(STREAM)).state
        assert kept.first_seq == 1
    async with _stream(server, nats_stream_bytes=2**24, nats_stream_days=2) as stream:
        await stream.publish(_message())
        info = await stream.context.stream_info(STREAM)
        assert (info.config.max_bytes, info.config.max_age) == (2**24, 2 * DAY_SECONDS)
        assert (info.state.first_seq, info.state.messages) == (1, kept.messages + 1)


async def test_a_message_is_stored_once_however_often_it_is_published(server: NatsServer) -> None:
    async with _stream(server, nats_stream_bytes=2**24) as stream:
        message = _message()
        await asyncio.gather(*(stream.publish(message) for _ in range(5)))
        assert (await stream.context.stream_info(STREAM)).state.messages == 1


async def test_a_deleted_stream_is_created_again(server: NatsServer) -> None:
    async with _stream(server, nats_stream_bytes=2**24, nats_timeout_seconds=1) as stream:
        await stream.context.delete_stream(STREAM)
        with pytest.raises(Unavailable):
            await stream.publish(_message())
        async with asyncio.timeout(PATIENCE):
            while not await _is_published(stream):
                pass


async def _is_published(stream: JetStream) -> bool:
    try:
        await stream.publish(_message())
    except Unavailable:
        return False
    return True


async def test_a_connection_closes_on_request_at_any_moment(server: NatsServer) -> None:
    settings = Settings(events_sink="jetstream", nats_servers=(server.url,), nats_replicas=1, nats_stream_bytes=2**24)
    for number in range(200):
        [duty] = JetStream(settings).duties()
        running = asyncio.create_task(repeat(duty, DutyHealth(explain_outage)))
        await asyncio.sleep(number * 0.00005)
        running.cancel()
        ended, _ = await asyncio.wait([running], timeout=PATIENCE)
        assert ended, number


async def test_publishes_beyond_the_maximum_in_flight_wait_for_their_turn(server: NatsServer) -> None:
    async with _stream(server, nats_stream_bytes=2**28) as stream:
        await asyncio.gather(*(stream.publish(_message()) for _ in range(600)))
        assert (await stream.context.stream_info(STREAM)).state.messages == 600


async def test_the_cpu_time_of_publishing_is_charged_to_the_agent(server: NatsServer, engine: Engine) -> None:
    charged: Counter[Hashable] = Counter()

    def charge(client: Hashable, seconds: float) -> None:
        charged[client] += seconds

    settings = Settings(events_sink="jetstream", nats_servers=(server.url,), nats_replicas=1, nats_stream_bytes=2**24)
    sink = JetStreamSink(Quarantine(engine, DatabaseClock(), 1), Slices(charge), settings)
    agent_id = new_id()
    async with performing(sink):
        await sink.append(batch_of(new_id(), agent_id, [b"{}"] * 64))
    assert charged[str(agent_id)] > 0
