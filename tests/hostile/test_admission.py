"""A large body is read when the node can store it soon, and its bytes are held until then."""

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Hashable
from contextlib import asynccontextmanager
from typing import Any
from weakref import ref

import pytest
import zstandard
from litestar import Request
from support.waiting import PATIENCE, until

from comms_api.app.server import map_large_blocks
from comms_api.errors import Unavailable
from comms_api.fairness.admission import TARGET_SECONDS, AdaptiveBudget
from comms_api.fairness.rounds import RoundQueue
from comms_api.http.bodies import FAILED_BYTES_COLLECTED, ROOM_BYTES, Bodies
from comms_api.http.problems import answer_problem
from comms_api.http1.connection import Connection
from comms_api.http1.endpoint import Accounting, Endpoint, Limits
from comms_api.http1.exchange import DISCARDED_IN_TURN_BYTES
from comms_api.settings import Settings
from comms_api.text.limited_log import LINES_MAXIMUM

pytestmark = pytest.mark.anyio

MIB = 2**20
HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

Use = Callable[[bytes], Awaitable[None]]
Receive = Callable[[], Awaitable[Any]]


def announced(size: int) -> bytes:
    return HEAD + b"Content-Length: %d\r\n\r\n" % size


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def unchanged(receive: Receive) -> Receive:
    return receive


@asynccontextmanager
async def served(
    bodies: Bodies, use: Use, turns: RoundQueue | None = None, watched: Callable[[Receive], Receive] = unchanged
) -> AsyncIterator[int]:
    """Serve an app that receives each body and uses it; without room, its answer is 503."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        status = 204
        try:
            async with bodies.receive(Request(scope, watched(receive))) as body:
                await use(body)
        except Unavailable:
            status = 503
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    limits = Limits(PATIENCE, PATIENCE, 16 * MIB, discard_seconds=PATIENCE)
    endpoint = Endpoint(app, limits, accounting=Accounting(turns=turns))
    server = await asyncio.get_running_loop().create_server(lambda: Connection(endpoint), "127.0.0.1", 0)
    try:
        async with asyncio.timeout(PATIENCE):
            yield server.sockets[0].getsockname()[1]
    finally:
        endpoint.abort()
        server.close()


async def begin(port: int, data: bytes, client: int = 1) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(f"127.0.0.{client}", 0))
    writer.write(data)
    return reader, writer


async def status_of(reader: asyncio.StreamReader) -> int:
    return int((await reader.readline()).split()[1])


async def use_at_once(_body: bytes) -> None:
    pass


async def test_a_body_is_refused_unread_while_earlier_bodies_are_not_stored() -> None:
    may_end = asyncio.Event()
    bodies = Bodies(Settings(bytes_in_flight_maximum=32 * MIB, body_wait_seconds=0.05), RoundQueue())

    async def use(_body: bytes) -> None:
        await may_end.wait()

    size = bodies.large.limit // 2
    async with served(bodies, use) as port:
        stored = [await begin(port, announced(size) + b"x" * size, client) for client in (1, 2)]
        await until(lambda: bodies.large.held == 2 * size)
        refused, writer = await begin(port, announced(size), client=3)
        assert await status_of(refused) == 503
        may_end.set()
        assert [await status_of(reader) for reader, _ in stored] == [204, 204]
        for _, each in [*stored, (refused, writer)]:
            each.close()
    assert bodies.large.held == 0


async def test_a_body_without_a_length_holds_room_for_a_batch_and_then_its_size() -> None:
    used = asyncio.Event()
    may_end = asyncio.Event()
    bodies = Bodies(Settings(), RoundQueue())

    async def use(_body: bytes) -> None:
        used.set()
        await may_end.wait()

    async with served(bodies, use) as port:
        reader, writer = await begin(port, CHUNKED + chunk(b"x" * 100_000))
        await until(lambda: bodies.large.held == ROOM_BYTES)
        writer.write(chunk(b"x" * 50_000) + b"0\r\n\r\n")
        await used.wait()
        assert bodies.large.held == 150_000
        may_end.set()
        assert await status_of(reader) == 204
        writer.close()
    assert bodies.large.held == bodies.small.held == 0


class BoundedBudget(AdaptiveBudget):
    """Records the most bytes that were held at once."""

    most = 0

    def _hold(self, client: Hashable, size: int) -> None:
        super()._hold(client, size)
        self.most = max(self.most, self.held)


async def test_bodies_that_together_exceed_the_memory_all_arrive_after_retries() -> None:
    settings = Settings(bytes_in_flight_maximum=96 * MIB, body_bytes_maximum=8 * MIB)
    bodies, clients, size = Bodies(settings, RoundQueue()), 30, 6 * MIB
    total = 21 * MIB
    bodies.large = budget = BoundedBudget(total, settings.body_bytes_maximum, settings.body_wait_seconds)
    budget.learn(total, total, TARGET_SECONDS / 2)
    assert budget.limit == total  # ten bodies are admitted with their first 2 MiB, and three fit
    body = announced(size) + b"x" * size
    first_statuses = list[int]()

    async def send_until_stored(port: int, client: int) -> None:
        status = 0
        while status != 204:
            reader, writer = await begin(port, body, client)
            status = await status_of(reader)
            writer.close()
            first_statuses.append(status)

    async with served(bodies, use_at_once) as port, asyncio.TaskGroup() as group:
        for client in range(1, clients + 1):
            group.create_task(send_until_stored(port, client))
    assert first_statuses.count(204) == clients
    assert 204 in first_statuses[:10]
    assert budget.most <= total
    assert budget.held == 0


async def test_a_client_that_announces_much_and_sends_little_keeps_nobody_out() -> None:
    bodies = Bodies(Settings(body_wait_seconds=0.01), RoundQueue())
    async with served(bodies, use_at_once) as port:
        slow, slow_writer = await begin(port, announced(16 * MIB) + b"x", client=1)
        await until(lambda: bodies.large.held)
        reader, writer = await begin(port, announced(MIB) + b"x" * MIB, client=2)
        assert await status_of(reader) == 204
        await until(lambda: bodies.large.held == 1)
        slow_writer.write(b"x" * (16 * MIB - 1))
        assert await status_of(slow) == 204
        for each in (slow_writer, writer):
            each.close()
    assert bodies.large.held == 0


async def test_a_small_body_holds_its_bytes_when_it_is_complete() -> None:
    bodies, waits, size = Bodies(Settings(), RoundQueue()), asyncio.Event(), 60_000

    async def use(_body: bytes) -> None:
        assert bodies.small.held == size

    def watched(receive: Receive) -> Receive:
        async def watch() -> Any:
            message = await receive()
            waits.set()
            return message

        return watch

    async with served(bodies, use, watched=watched) as port:
        reader, writer = await begin(port, announced(size) + b"x" * (size - 1))
        await waits.wait()
        assert bodies.small.held == 0
        writer.write(b"x")
        assert await status_of(reader) == 204
        writer.close()


class RecordedBudget(AdaptiveBudget):
    """Records how long requests took."""

    seconds: float = 0.0

    def learn(self, size: int, held: int, seconds: float) -> None:
        self.seconds += seconds
        super().learn(size, held, seconds)


async def test_waiting_for_a_client_does_not_count_as_work() -> None:
    loop = asyncio.get_running_loop()
    bodies, waits, size, pause_seconds = Bodies(Settings(), RoundQueue()), asyncio.Event(), 100_000, 0.5
    bodies.large = budget = RecordedBudget(16 * MIB, MIB, PATIENCE)
    received = 0

    def watched(receive: Receive) -> Receive:
        async def watch() -> Any:
            nonlocal received
            if received == size - 1:
                waits.set()
            message = await receive()
            received += len(message["body"])
            return message

        return watch

    began_at = loop.time()
    async with served(bodies, use_at_once, watched=watched) as port:
        reader, writer = await begin(port, announced(size) + b"x" * (size - 1))
        await waits.wait()
        await asyncio.sleep(pause_seconds)
        writer.write(b"x")
        assert await status_of(reader) == 204
        writer.close()
    assert 0 < budget.seconds < loop.time() - began_at - pause_seconds


async def test_a_failed_request_does_not_move_the_limit() -> None:
    bodies = Bodies(Settings(), RoundQueue())
    before = bodies.large.limit

    async def use(_body: bytes) -> None:
        raise Unavailable("a failure after the body was read")

    async with served(bodies, use) as port:
        reader, writer = await begin(port, announced(MIB) + b"x" * MIB)
        assert await status_of(reader) == 503
        writer.close()
    assert bodies.large.limit == before


class Held:
    """An object whose end can be observed."""


async def test_requests_that_failed_are_freed_after_a_bounded_number_of_bytes() -> None:
    kept: list[ref[Held]] = []

    async def fail(_body: bytes) -> None:
        held, error = Held(), Unavailable("its traceback refers to this frame, which refers to the error")
        kept.append(ref(held))
        raise error

    size = 16 * MIB
    gc.disable()
    try:
        async with served(Bodies(Settings(), RoundQueue()), fail) as port:
            for _ in range(FAILED_BYTES_COLLECTED // size):
                reader, writer = await begin(port, announced(size) + b"x" * size)
                assert await status_of(reader) == 503
                writer.close()
        assert kept[0]() is None
    finally:
        gc.enable()


def test_a_full_node_logs_a_bounded_number_of_lines(caplog: pytest.LogCaptureFixture) -> None:
    scope: Any = {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b"", "server": ("a", 1)}
    for _ in range(2 * LINES_MAXIMUM):
        assert answer_problem(Request(scope), Unavailable("This node is full.")).status_code == 503
    assert len([record for record in caplog.records if "answered 503" in record.message]) <= LINES_MAXIMUM


class Stepwise:
    """Awaits a coroutine, and measures the CPU time of its longest step."""

    def __init__(self, inner: Coroutine[Any, Any, Any]) -> None:
        self._inner = inner
        self.longest_seconds = 0.0

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._inner.__await__()
        while True:
            began = time.thread_time()
            try:
                waited = next(steps)
            except StopIteration as end:
                return end.value
            finally:
                self.longest_seconds = max(self.longest_seconds, time.thread_time() - began)
            yield waited


async def test_no_step_of_reading_a_large_body_takes_as_long_as_copying_all_of_it() -> None:
    map_large_blocks()  # as a worker does; otherwise, a buffer may be copied when it grows
    whole = os.urandom(MIB) * 15
    attempts = list[tuple[float, float]]()
    for _ in range(20):  # on a busy machine, most attempts may be interrupted in the middle of a step
        copying, longest = await seconds_of_copying_and_of_the_longest_step(whole)
        attempts.append((copying, longest))
        if longest < 0.8 * copying:
            return
    pytest.fail(f"seconds of copying and of the longest step: {attempts}")


async def seconds_of_copying_and_of_the_longest_step(whole: bytes) -> tuple[float, float]:
    """Return the CPU seconds of joining the parts of a body, and of the longest step of receiving that body."""
    parts = [whole[start : start + MIB // 4] for start in range(0, len(whole), MIB // 4)]
    began = time.thread_time()
    b"".join(parts)
    copying_seconds = time.thread_time() - began
    bodies, steps = Bodies(Settings(bytes_in_flight_maximum=512 * MIB), RoundQueue()), list[Stepwise]()

    async def read(scope: Any, receive: Any, send: Any) -> None:
        reading = bodies.receive(Request(scope, receive))
        steps.append(Stepwise(reading.__aenter__()))
        assert await steps[-1] == whole
        await reading.__aexit__(None)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    endpoint = Endpoint(read, Limits(PATIENCE, PATIENCE, 16 * MIB))
    server = await asyncio.get_running_loop().create_server(lambda: Connection(endpoint), "127.0.0.1", 0)
    async with server, asyncio.timeout(PATIENCE):
        port = server.sockets[0].getsockname()[1]
        for headers, body in ((b"", whole), (b"Content-Encoding: zstd\r\n", zstandard.compress(whole))):
            head = HEAD + headers + b"Content-Length: %d\r\n\r\n" % len(body)
            reader, writer = await begin(port, head + body)
            assert await status_of(reader) == 204
            writer.close()
    return copying_seconds, max(each.longest_seconds for each in steps)


class RecordedQueue(RoundQueue):
    """Records the groups that have waited for a turn."""

    def __init__(self) -> None:
        super().__init__()
        self.groups: list[object] = []

    async def wait_for_turn(self, group: object, kind: str = "") -> None:
        self.groups.append(group)
        await super().wait_for_turn(group, kind)


async def test_large_bodies_are_discarded_in_turns_of_one_group() -> None:
    bodies = Bodies(Settings(bytes_in_flight_maximum=64 * MIB, body_wait_seconds=0.01), RoundQueue())
    await bodies.large.acquire("another", bodies.large.limit)
    turns, size = RecordedQueue(), 4 * MIB
    async with served(bodies, use_at_once, turns) as port:
        refused = [await begin(port, announced(size) + b"x" * size) for _ in range(3)]
        for reader, writer in refused:
            assert await status_of(reader) == 503
            assert (await reader.read()).endswith(b"\r\n\r\n")
            writer.close()
    assert len(set(turns.groups)) == 1
    assert len(refused) * (size // DISCARDED_IN_TURN_BYTES) >= len(turns.groups) >= len(refused) * 3
