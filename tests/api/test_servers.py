"""Connections of a running server: their limits and their ends."""

import asyncio
import os
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
import pytest
from support.batches import stateless
from support.databases import querying
from support.events import stored_lines
from support.heartbeats import wait_for_polls
from support.raw import connect, read_answer, request
from support.server import Server, running_server, start_server
from support.waiting import PATIENCE, wait_until

from comms_api.app.certificates import Certificate
from comms_api.app.hypercorn_server import Loop, Site, serve
from comms_api.app.listeners import open_listeners
from comms_api.settings import Settings

Query = Callable[..., list[Any]]
STDERR = 2


@pytest.fixture(scope="module")
def server(folder: Path, database_url: str) -> Iterator[Server]:
    with running_server(folder, database_url, body_timeout_seconds=1) as running:
        yield running


@pytest.fixture(scope="module")
def agent_id(server: Server) -> UUID:
    return server.enroll(server.management(), "connections")


@pytest.fixture
def ending(folder: Path, new_database: Callable[[], str], request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that the test stops; the parameter is its drain time."""
    with running_server(folder, new_database(), drain_seconds=request.param, poll_wait_seconds=3600) as running:
        yield running


def is_refused(port: int) -> bool:
    """Return whether no process listens; a connection made while the listener closes is reset."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except (ConnectionRefusedError, ConnectionResetError):
        return True
    return False


def test_http_1_1_is_the_only_protocol_on_offer(server: Server) -> None:
    for offered, chosen in ((["h2", "http/1.1"], "http/1.1"), (["http/1.1"], "http/1.1")):
        tls = server.tls
        tls.set_alpn_protocols(offered)
        with connect(tls, server.agent_port) as connection:
            assert connection.selected_alpn_protocol() == chosen


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_apis_speak_tls_with_the_nodes_certificate(server: Server, version: ssl.TLSVersion) -> None:
    tls = server.tls
    tls.minimum_version = tls.maximum_version = version
    chain = (server.folder / "certs" / "server.pem").read_text()
    served = ssl.PEM_cert_to_DER_cert(chain.partition(ssl.PEM_FOOTER)[0] + ssl.PEM_FOOTER)
    for port in (server.agent_port, server.management_port):
        with connect(tls, port) as connection:
            assert connection.getpeercert(binary_form=True) == served


def test_several_requests_share_a_connection_even_when_they_come_at_once(server: Server) -> None:
    get = request("GET", "/", None).replace(b"Connection: close\r\n", b"")
    with connect(server.tls, server.agent_port) as connection:
        connection.sendall(get * 3)
        received = b""
        while received.count(b"HTTP/1.1 200") < 3:
            received += connection.recv(65536)


def test_each_part_of_an_answer_arrives_as_soon_as_it_is_sent(server: Server) -> None:
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(serve_in_three_parts(server))


def site_of(server: Server, app: Any, listener: socket.socket, settings: Settings) -> Site:
    certs = server.folder / "certs"
    return Site(app, listener, Certificate(certs / "server.pem", certs / "server.key"), settings)


async def serve_in_three_parts(server: Server) -> None:
    """Return when the parts of an answer have arrived together."""
    ended = asyncio.Event()
    settings = Settings(agent_bind="127.0.0.1:0", management_bind="127.0.0.1:0")
    [listeners] = open_listeners(settings)
    listeners.listen()
    serving = asyncio.create_task(serve(site_of(server, in_three_parts, listeners.agent, settings), ended))
    port = listeners.agent.getsockname()[1]
    # A client's kernel waits 40 ms before it acknowledges each part; a busy machine is less regular.
    fast = partial(wait_until, lambda: min(seconds_of_answers(server.tls, port)) < 0.03)
    await asyncio.to_thread(fast)
    listeners.close()
    ended.set()
    await serving


async def in_three_parts(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]})
    for part in range(3):
        await send({"type": "http.response.body", "body": b"x", "more_body": part < 2})
        await asyncio.sleep(0.001)


def seconds_of_answers(tls: ssl.SSLContext, port: int) -> list[float]:
    took = []
    with connect(tls, port) as connection:
        for _ in range(20):
            started = time.monotonic()
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert read_answer(connection).body == b"xxx"
            took.append(time.monotonic() - started)
    return took[5:]  # a kernel acknowledges the first ones at once


def test_an_accept_never_blocks_on_a_shared_socket_while_another_worker_starts(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as shared, asyncio.Runner(loop_factory=Loop) as runner:
        assert not runner.run(blocks_while_a_worker_starts(server, shared))


async def blocks_while_a_worker_starts(server: Server, shared: socket.socket) -> bool:
    """Return whether the socket was blocking when the second of two workers started."""
    settings, ended = Settings(workers=2), asyncio.Event()
    first, second = open_listeners(settings, {"agent": shared.fileno(), "management": shared.fileno()})
    has_started, seen = asyncio.Event(), list[bool]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            seen.append(os.get_blocking(shared.fileno()))
            has_started.set()
            await receive()
            return
        await in_three_parts(scope, receive, send)

    serving = [asyncio.create_task(serve(site_of(server, in_three_parts, first.agent, settings), ended))]
    port = shared.getsockname()[1]
    await asyncio.to_thread(seconds_of_answers, server.tls, port)
    serving.append(asyncio.create_task(serve(site_of(server, app, second.agent, settings), ended)))
    await has_started.wait()
    for pair in (first, second):
        pair.close()
    ended.set()
    await asyncio.gather(*serving)
    return seen[0]


def test_a_program_that_a_node_starts_inherits_none_of_its_sockets(server: Server) -> None:
    with connect(server.tls, server.agent_port):
        assert inherited_sockets(server.process.pid) == []


def inherited_sockets(pid: int) -> list[str]:
    """Return the descriptors of sockets that a program would inherit from a process, except the standard ones."""
    found, process = [], Path(f"/proc/{pid}")
    for descriptor in (process / "fd").iterdir():
        with suppress(FileNotFoundError):  # it has just been closed
            flags = (process / "fdinfo" / descriptor.name).read_text().partition("flags:")[2].split()[0]
            is_socket = str(descriptor.readlink()).startswith("socket:") and int(descriptor.name) > STDERR
            if is_socket and not int(flags, 8) & os.O_CLOEXEC:
                found.append(descriptor.name)
    return found


def test_a_large_head_is_431(server: Server) -> None:
    with connect(server.tls, server.agent_port) as connection:
        connection.sendall(request("GET", "/", None, b"", "X-Large: " + "x" * 100_000))
        assert read_answer(connection).status == 431


@pytest.mark.parametrize("size", [1000, 1_000_000])
def test_a_body_that_drips_in_is_408_at_either_api(server: Server, agent_id: UUID, size: int) -> None:
    agents = ("/events/stateless", server.token(agent_id), server.agent_port)
    operator = server.management().headers["Authorization"].removeprefix("Bearer ")
    for path, token, port in (agents, ("/groups", operator, server.management_port)):
        with connect(server.tls, port) as connection:
            started = time.monotonic()
            connection.sendall(
                request("POST", path, token, b"", "Content-Type: application/json", f"Content-Length: {size}") + b"{"
            )
            answer = read_answer(connection)
            assert (answer.status, answer.headers["connection"]) == (408, "close")
            assert time.monotonic() - started > 0.9


def test_a_client_that_leaves_in_the_middle_of_a_body_costs_nothing(
    server: Server, agent_id: UUID, query: Query
) -> None:
    head = request("POST", "/events/stateless", server.token(agent_id), b"", "Content-Length: 100000")
    for _ in range(20):
        with connect(server.tls, server.agent_port) as connection:
            connection.sendall(head + stateless(agent_id, {"n": 1}, module="left"))
    with connect(server.tls, server.agent_port) as connection:
        connection.sendall(request("GET", "/", None))
        assert read_answer(connection).status == 200
    assert stored_lines(query, module="left") == []


def test_connections_of_one_batch_each_leave_no_memory_behind(server: Server, agent_id: UUID) -> None:
    event = b'{"text":"' + b"x" * 40_000 + b'"}'
    batch = request("POST", "/events/stateless", server.token(agent_id), stateless(agent_id, event))

    def send(times: int) -> int:
        for _ in range(times):
            with connect(server.tls, server.agent_port) as connection:
                connection.sendall(batch)
                assert read_answer(connection).status == 204
        return server.resident_bytes()

    before = send(100)
    assert send(400) - before < 8 * 2**20


def test_connections_that_are_reset_before_their_first_byte_leave_no_memory_behind(server: Server) -> None:
    linger = struct.pack("ii", 1, 0)

    def reset(times: int) -> int:
        for _ in range(times):
            connection = connect(server.tls, server.agent_port)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            connection.close()
        return server.resident_bytes()

    before = reset(100)
    assert reset(800) - before < 8 * 2**20


@pytest.mark.parametrize("ending", [3600], indirect=True)
def test_sigterm_lets_a_request_under_way_finish_and_refuses_new_connections(ending: Server) -> None:
    agent_id = ending.enroll(ending.management(), "draining")
    token, body = ending.token(agent_id), stateless(agent_id, {"n": 1})
    with connect(ending.tls, ending.agent_port) as upload, connect(ending.tls, ending.agent_port) as poll:
        upload.sendall(request("POST", "/events/stateless", token, body)[:-1])
        poll.sendall(request("GET", "/commands?wait=3600", token))
        wait_for_polls(ending.management(), 1)
        ending.process.terminate()
        assert read_answer(poll).status == 200
        wait_until(lambda: is_refused(ending.agent_port))
        upload.sendall(body[-1:])
        assert read_answer(upload).status == 204
    assert ending.process.wait(timeout=PATIENCE) == 0


def test_a_worker_that_has_ended_leaves_no_open_socket_while_another_one_drains(
    folder: Path, database_url: str
) -> None:
    with running_server(folder, database_url, workers=2, drain_seconds=3600) as server:
        supervisor = psutil.Process(server.process.pid)
        wait_until(lambda: len(served_by(server, supervisor)) == 2)
        workers, token = supervisor.children(), server.token(server.enroll(server.management(), "draining"))
        head = request("POST", "/events/stateless", token, b"", "Content-Length: 1000", "Expect: 100-continue")
        with connect(server.tls, server.agent_port) as upload:
            upload.sendall(head)
            assert upload.recv(1024).startswith(b"HTTP/1.1 100")
            server.process.terminate()
            wait_until(lambda: [has_ended(worker) for worker in workers].count(True) == 1)
            assert is_refused(server.agent_port)


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("ending", [1], indirect=True)
def test_sigterm_does_not_wait_for_stalled_clients(ending: Server) -> None:
    agent_id = ending.enroll(ending.management(), "waiting")
    with connect(ending.tls, ending.agent_port) as idle, connect(ending.tls, ending.agent_port) as half:
        idle.sendall(request("GET", "/", None).replace(b"Connection: close\r\n", b""))
        assert read_answer(idle).status == 200
        half.sendall(request("POST", "/events/stateless", ending.token(agent_id), b"", "Content-Length: 1000"))
        with socket.create_connection(("127.0.0.1", ending.agent_port)):
            time.sleep(0.5)
            ending.process.terminate()
            time.sleep(1.35)  # longer than its drain time
            half.close()
            assert ending.process.wait(timeout=PATIENCE) == 0
    log = (ending.folder / "log").read_text().rpartition("draining")[2]
    assert "ERROR" not in log, log


def test_several_workers_share_the_ports_and_one_that_dies_is_replaced(folder: Path, database_url: str) -> None:
    server = start_server(folder, database_url, workers=2)
    try:
        supervisor = psutil.Process(server.process.pid)
        wait_until(
            lambda: len(served_by(server, supervisor)) == 2
        )  # the node is announced when its first worker serves
        first = supervisor.children()[0]
        first.kill()
        wait_until(lambda: len(served_by(server, supervisor) - {first.pid}) == 2)
    finally:
        assert server.stop() == 0


def test_a_worker_that_cannot_start_takes_no_connections(folder: Path, new_database: Callable[[], str]) -> None:
    url = new_database()
    with running_server(folder / "broken", url, workers=2) as server:
        supervisor, log = psutil.Process(server.process.pid), server.folder / "log"
        wait_until(lambda: len(served_by(server, supervisor)) == 2)
        query = querying(url)
        query("ALTER TABLE signing_keys RENAME TO away")
        [lost, kept] = supervisor.children()
        lost.kill()
        wait_until(lambda: log.read_text().count("starting another") == 2)
        assert served_by(server, supervisor) == {kept.pid}
        query("ALTER TABLE away RENAME TO signing_keys")
        wait_until(lambda: len(served_by(server, supervisor)) == 2)


def served_by(server: Server, supervisor: psutil.Process) -> set[int]:
    """Return the workers that answer, by the connections they hold."""
    clients = [httpx.Client(base_url=server.agent_url, verify=server.tls, timeout=PATIENCE) for _ in range(40)]
    assert [client.get("/").status_code for client in clients] == [200] * 40
    workers = {
        worker.pid
        for worker in supervisor.children()
        for connection in worker.net_connections("tcp")
        if connection.status == psutil.CONN_ESTABLISHED and connection.laddr.port == server.agent_port
    }
    for client in clients:
        client.close()
    return workers
