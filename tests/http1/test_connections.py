"""A connection serves its requests in order and within bounds, and its client can detect its end."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trustme
import uvloop
from support.connections import LAST, exchange, get, served
from support.raw import connect
from support.waiting import PATIENCE, settle, until

from comms_api.app.hypercorn_server import Loop
from comms_api.http1.connection import AHEAD_BYTES_MAXIMUM, CLIENT_CHECK_SECONDS, Connection, common_name
from comms_api.http1.endpoint import AT_END, READ_BYTES_MAXIMUM, Accounting, Endpoint, Limits
from comms_api.http1.forwarded import TrustedProxies

PART_BYTES = 65_536
PART = b"x" * PART_BYTES
MORE_THAN_KERNELS_HOLD = 400
"""The number of parts."""


@asynccontextmanager
async def served_over_tls(endpoint: Endpoint) -> AsyncIterator[tuple[int, ssl.SSLContext]]:
    """Serve on a port, and return it with the client's context."""
    authority = trustme.CA()
    server_side, client_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server_side)
    authority.configure_trust(client_side)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(endpoint), "127.0.0.1", 0, ssl=server_side)
    try:
        yield server.sockets[0].getsockname()[1], client_side
    finally:
        server.close()
        endpoint.abort()
        await settle()


async def answer(send: Any, body: bytes, status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Any, receive: Any, send: Any) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    await answer(send, scope["path"].encode() + body)


@pytest.mark.anyio
async def test_pipelined_requests_are_answered_in_order() -> None:
    under_way: list[str] = []
    seen: list[int] = []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        under_way.append(scope["path"])
        seen.append(len(under_way))
        await asyncio.sleep(0.01)
        under_way.remove(scope["path"])
        await echo(scope, receive, send)

    post = b"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n123"
    async with served(slow) as (_, port):
        received = await exchange(port, get("/a") + post + get("/c", LAST))
    assert [part.rpartition(b"\n")[2] for part in received.split(b"HTTP/1.1 200 OK")[1:]] == [b"/a", b"/b123", b"/c"]
    assert seen == [1, 1, 1]


@pytest.mark.anyio
async def test_little_is_read_ahead_of_an_app_and_a_disconnect_is_still_noticed() -> None:
    gone = asyncio.Event()

    async def wait(_scope: Any, receive: Any, _send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    async with served(wait) as (endpoint, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(get("/") + get("/behind") * 4_000)
        await writer.drain()
        await until(lambda: any(len(taken._unread) > AHEAD_BYTES_MAXIMUM for taken in endpoint._connections))  # noqa: SLF001 - no client can see it
        await asyncio.sleep(0.1)  # time in which a wrong server would read more
        [connection] = endpoint._connections  # noqa: SLF001 - the same
        assert AHEAD_BYTES_MAXIMUM < len(connection._unread) < 6 * AHEAD_BYTES_MAXIMUM  # noqa: SLF001 - the same
        writer.close()
        await gone.wait()


@pytest.mark.anyio
async def test_an_app_waits_for_a_client_that_does_not_read() -> None:
    sent, gone = [0], asyncio.Event()

    async def flood(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(MORE_THAN_KERNELS_HOLD):
            await send({"type": "http.response.body", "body": PART, "more_body": True})
            sent[0] += 1
        gone.set()

    async with served(flood) as (_, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.write(get("/"))
        await until(lambda: sent[0])
        await asyncio.sleep(0.5)
        assert 0 < sent[0] < MORE_THAN_KERNELS_HOLD / 2
        writer.transport.abort()
        await gone.wait()  # the app does not wait for a disconnected client


@pytest.mark.anyio
async def test_a_client_that_never_reads_its_answer_is_disconnected() -> None:
    gone = asyncio.Event()

    async def flood(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(MORE_THAN_KERNELS_HOLD):
            await send({"type": "http.response.body", "body": PART, "more_body": True})
        gone.set()

    async with served(flood, stall_seconds=0.3) as (endpoint, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.write(get("/"))
        await gone.wait()
        endpoint.end()
        await endpoint.wait_until_closed()
        writer.close()


@pytest.mark.anyio
async def test_the_requests_of_a_client_that_does_not_read_wait() -> None:
    served_requests = [0]

    async def large(_scope: Any, _receive: Any, send: Any) -> None:
        served_requests[0] += 1
        await answer(send, PART)

    async with served(large) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.write(get("/") * (MORE_THAN_KERNELS_HOLD - 1) + get("/", LAST))
        await until(lambda: served_requests[0])
        await asyncio.sleep(0.5)
        assert 0 < served_requests[0] < MORE_THAN_KERNELS_HOLD / 2
        received = 0
        while data := await reader.read(2**20):
            received += data.count(PART[:1])
        writer.close()
    assert served_requests[0] == MORE_THAN_KERNELS_HOLD
    assert received >= MORE_THAN_KERNELS_HOLD * len(PART)


@pytest.mark.anyio
@pytest.mark.parametrize("is_begun", [False, True])
async def test_an_app_that_fails_does_not_leave_its_client_waiting(
    caplog: pytest.LogCaptureFixture, *, is_begun: bool
) -> None:
    async def fail(_scope: Any, _receive: Any, send: Any) -> None:
        if is_begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError("a fault of the app")

    async with served(fail) as (_, port):
        received = await exchange(port, get("/"))
    assert "a fault of the app" in caplog.text
    if is_begun:
        assert received.endswith(b"4\r\nhalf\r\n")  # no chunk ends the body
    else:
        assert received.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
        assert b"a fault of the app" not in received


@pytest.mark.anyio
@pytest.mark.parametrize("ends", ["with an answer", "with a fault", "with its client"])
async def test_the_callbacks_for_the_end_of_a_request_run_however_it_ends(ends: str) -> None:
    calls, begun = list[str](), asyncio.Event()

    async def leave(scope: Any, receive: Any, send: Any) -> None:
        scope["state"][AT_END] = [lambda: calls.append(ends)]
        begun.set()
        if ends == "with a fault":
            raise RuntimeError("a fault of the app")
        if ends == "with its client":
            assert (await receive())["type"] == "http.request"
            assert (await receive())["type"] == "http.disconnect"
        await answer(send, b"")

    async with served(leave) as (_, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(get("/"))
        await begun.wait()
        writer.close()
        await until(lambda: calls == [ends])


@pytest.mark.anyio
async def test_the_server_answers_for_an_app_that_does_not_answer() -> None:
    async def nothing(_scope: Any, _receive: Any, _send: Any) -> None:
        pass

    async with served(nothing) as (_, port):
        assert (await exchange(port, get("/"))).startswith(b"HTTP/1.1 500 ")


@pytest.mark.anyio
async def test_a_body_that_is_shorter_than_announced_ends_the_connection() -> None:
    async def short(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        await send({"type": "http.response.body", "body": b"short"})

    async with served(short) as (_, port):
        assert (await exchange(port, get("/"))).endswith(b"\r\n\r\nshort")


@pytest.mark.anyio
async def test_the_server_refuses_malformed_bytes_even_while_the_app_waits_for_a_body() -> None:
    reasons: list[str] = []
    is_read = asyncio.Event()

    async def read(_scope: Any, receive: Any, _send: Any) -> None:
        is_read.set()
        while (message := await receive())["type"] == "http.request":
            pass
        reasons.append(message["type"])

    async with served(read) as (_, port):
        assert (await exchange(port, b"no HTTP\r\n\r\n")).startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert reasons == []
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        await is_read.wait()
        writer.write(b"no size")
        assert b"Invalid character in chunk size" in await reader.read()
        writer.close()
    assert reasons == ["http.disconnect"]


@pytest.mark.anyio
async def test_a_head_is_sent_before_its_body_is_ready() -> None:
    go_on = asyncio.Event()

    async def pause(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"late"})

    async with served(pause) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(get("/", LAST))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        go_on.set()
        assert await reader.read() == b"4\r\nlate\r\n0\r\n\r\n"
        writer.close()


async def drip(writer: asyncio.StreamWriter) -> None:
    """Send a head that does not end."""
    while True:
        writer.write(b"G")
        await asyncio.sleep(0.1)


async def is_closed(reader: asyncio.StreamReader) -> bool:
    """Wait for bytes or the end, and return whether it is the end."""
    try:
        return await reader.read(1) == b""
    except ConnectionError:  # bytes arrived while the server closed
        return True


@pytest.mark.anyio
async def test_a_connection_that_is_idle_or_drips_a_head_is_closed() -> None:
    async with served(echo, idle_seconds=0.5) as (_, port):
        idle, afterwards, dripping = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        afterwards[1].write(get("/"))
        drips = asyncio.create_task(drip(dripping[1]))
        assert await asyncio.gather(is_closed(idle[0]), is_closed(dripping[0])) == [True, True]
        drips.cancel()
        assert (await afterwards[0].read()).endswith(b"/")
        for _, writer in (idle, afterwards, dripping):
            writer.close()


@pytest.mark.anyio
async def test_an_endpoint_that_ends_closes_idle_connections_at_once_and_others_after_their_answer() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        await go_on.wait()
        await echo(scope, receive, send)

    async with served(wait) as (endpoint, port):
        busy, idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        busy[1].write(get("/first") + get("/never"))
        await begun.wait()
        await until(lambda: len(endpoint._connections) == 2)  # noqa: SLF001 - no client can see it
        endpoint.end()
        assert await idle[0].read() == b""
        ended = asyncio.create_task(endpoint.wait_until_closed())
        go_on.set()
        received = await busy[0].read()
        await ended
        assert b"connection: close" in received
        assert received.endswith(b"\r\n\r\n/first")
        assert await exchange(port, get("/late")) == b""
        for _, writer in (busy, idle):
            writer.close()


@pytest.mark.anyio
@pytest.mark.parametrize("value", ["100-continue", "100-Continue"])
async def test_a_client_is_asked_for_its_body_before_the_answer_or_not_at_all(value: str) -> None:
    async def late(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/asks":
            await echo(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        receiving = asyncio.create_task(receive())
        await asyncio.sleep(0.05)
        receiving.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    head = f"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: {value}\r\n\r\n"
    async with served(late) as (_, port):
        assert b" 100 " not in await exchange(port, (head % "/streams").encode())
        assert b" 100 " not in await exchange(port, (head % "/asks").encode() + b"ab" + get("/asks", LAST))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write((head % "/asks").encode())
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ab" + get("/asks", LAST))
        assert b"/asksab" in await reader.read()
        writer.close()


@pytest.mark.anyio
@pytest.mark.parametrize("pause", [None, 0.01])
async def test_a_head_that_cannot_be_sent_is_a_500_and_its_body_does_not_follow(
    caplog: pytest.LogCaptureFixture, pause: float | None
) -> None:
    async def split(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"a\r\nb: c")]})
        if pause:
            await asyncio.sleep(pause)
        await send({"type": "http.response.body", "body": b"HTTP/1.1 200 OK"})

    async with served(split) as (_, port):
        received = await exchange(port, get("/") + get("/"))
    assert received.startswith(b"HTTP/1.1 500 ")
    assert b"200" not in received
    assert "line break" in caplog.text


@pytest.mark.anyio
async def test_a_client_that_disconnects_from_a_stream_gets_no_more_writes(caplog: pytest.LogCaptureFixture) -> None:
    gone = asyncio.Event()

    async def flood(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(20 * MORE_THAN_KERNELS_HOLD):
            await send({"type": "http.response.body", "body": PART, "more_body": True})
        gone.set()

    async with served(flood) as (_, port):
        for _ in range(3):
            gone.clear()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(get("/"))
            await reader.readexactly(1000)
            writer.transport.abort()
            await gone.wait()
    assert caplog.text == ""


@pytest.mark.anyio
async def test_a_complete_body_is_read_to_its_end_after_its_client_stops_sending() -> None:
    go_on, ended = asyncio.Event(), asyncio.Event()
    body = b"x" * 6 * AHEAD_BYTES_MAXIMUM
    received: list[bytes] = []

    async def slow(_scope: Any, receive: Any, _send: Any) -> None:
        await go_on.wait()
        more = True
        while more:
            message = await receive()
            received.append(message["body"])
            more = message["more_body"]
        ended.set()

    async with served(slow) as (_, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        writer.write_eof()
        await asyncio.sleep(CLIENT_CHECK_SECONDS + 0.5)
        go_on.set()
        await ended.wait()
        writer.close()
    assert b"".join(received) == body


def test_a_large_answer_reaches_a_slow_client_whole_over_tls() -> None:
    whole = PART * 256
    have_begun = asyncio.Barrier(2)

    async def serve() -> list[int]:
        async def large(_scope: Any, _receive: Any, send: Any) -> None:
            await have_begun.wait()
            endpoint.limits = Limits(0.3, PATIENCE, 2**20)  # an idle connection would be closed while its client reads
            await answer(send, whole)

        endpoint = Endpoint(large, Limits(PATIENCE, PATIENCE, 2**20))
        async with served_over_tls(endpoint) as (port, tls):
            return await asyncio.gather(*(asyncio.to_thread(read_slowly, tls, port, *last) for last in ((), (LAST,))))

    def read_slowly(tls: ssl.SSLContext, port: int, *headers: str) -> int:
        received = 0
        with connect(tls, port) as connection:
            connection.sendall(get("/", *headers))
            for _ in range(30):
                time.sleep(0.1)
                received += len(connection.recv(PART_BYTES))
            while data := connection.recv(2**20):
                received += len(data)
        return received

    sizes = uvloop.run(serve(), loop_factory=Loop)
    assert min(sizes) > len(whole)


def test_little_of_a_body_is_read_before_the_app_asks_for_it_over_tls() -> None:
    sizes: list[int] = []
    go_on = asyncio.Event()

    async def wait(_scope: Any, _receive: Any, send: Any) -> None:
        await go_on.wait()
        await answer(send, b"")

    async def serve() -> None:
        endpoint = Endpoint(wait, Limits(PATIENCE, PATIENCE, 2**20))
        async with served_over_tls(endpoint) as (port, tls):
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
            writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n" + PART * 150)
            await until(lambda: any(taken.reader.body_bytes for taken in endpoint._connections))  # noqa: SLF001 - no client can see it
            await asyncio.sleep(0.3)  # time in which a wrong server would read more
            [connection] = endpoint._connections  # noqa: SLF001 - the same
            transport = connection._transport  # noqa: SLF001 - the same
            sizes.extend((connection.reader.body_bytes, transport.get_read_buffer_size()))
            writer.transport.abort()
            go_on.set()
            await until(lambda: not endpoint._connections)  # noqa: SLF001 - the same

    uvloop.run(serve(), loop_factory=Loop)
    assert AHEAD_BYTES_MAXIMUM < sizes[0] < AHEAD_BYTES_MAXIMUM + READ_BYTES_MAXIMUM
    assert 0 < sizes[1] <= 256 * 1024


@pytest.mark.anyio
async def test_a_connection_that_begins_paused_reads_nothing_before_its_turn() -> None:
    async with served(echo, is_paused=True) as (endpoint, port):
        exchanged = asyncio.create_task(exchange(port, get("/", LAST)))
        await until(lambda: bool(endpoint._connections))  # noqa: SLF001 - no client can see it
        await asyncio.sleep(0.1)  # time in which a wrong server would read the request
        [connection] = endpoint._connections  # noqa: SLF001 - the same
        assert endpoint.requests.total == 0
        connection.update_reading()
        assert (await exchanged).endswith(b"/")


def test_a_certificate_names_its_client_by_exactly_one_common_name() -> None:
    assert common_name({"subject": ((("countryName", "X"),), (("commonName", "a"),))}) == "a"
    assert common_name(None) is common_name({}) is None
    several = {"subject": ((("commonName", "a"), ("commonName", "b")),)}
    assert common_name({"subject": (), "version": 3}) == common_name(several) == ""


@pytest.mark.anyio
async def test_a_request_is_charged_to_the_client_that_a_trusted_proxy_names() -> None:
    seen: list[Any] = []
    charged: list[Any] = []

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        seen.append(scope["client"])
        await answer(send, b"")

    accounting = Accounting(charge=lambda scope, _: charged.append(scope["client"]))
    async with served(app, accounting=accounting, proxies=TrustedProxies(["127.0.0.0/8"])) as (endpoint, port):
        await exchange(port, get("/", "X-Forwarded-For: 203.0.113.9", LAST))
        await endpoint.requests.wait_until_idle()
    assert seen == charged == [("203.0.113.9", 0)]
    assert endpoint.requests.total == 1
