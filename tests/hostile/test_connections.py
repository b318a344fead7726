"""Clients that hold connections, without a token or with one, do not keep others out."""

import re
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from uuid import UUID

import httpx
import psutil
import pytest
from support.raw import Answer, connect, read_answer, request
from support.server import Server, running_server
from support.waiting import PATIENCE, wait_until

from comms_api.http1.proxy_protocol import V2_SIGNATURE

FILES = 256
PROXY = "127.0.0.3"
CLIENT = bytes([203, 0, 113, 9])
NAMED = V2_SIGNATURE + bytes([0x21, 0x11, 0, 12]) + CLIENT + bytes([192, 0, 2, 1, 200, 34, 105, 120])


@pytest.fixture(scope="module")
def server(folder: Path, database_url: str) -> Iterator[Server]:
    """A node that may open few files, and trusts a proxy."""
    settings = {"proxy_protocol_from": f"{PROXY}/32", "connections_per_address_maximum": 10_000}
    with running_server(folder, database_url, prefix=["prlimit", f"--nofile={FILES}:{FILES}"], **settings) as running:
        yield running


@pytest.fixture(scope="module")
def agent_id(server: Server) -> UUID:
    return server.enroll(server.management(), "connections")


def is_served(server: Server) -> bool:
    with suppress(OSError), connect(server.tls, server.agent_port) as connection:
        connection.sendall(request("GET", "/", None))
        return read_answer(connection).status == 200
    return False


def log_of(server: Server) -> str:
    return (server.folder / "log").read_text()


UNFINISHED = request("POST", "/login", None, b"", "Content-Length: 8192") + b"{"


@pytest.mark.parametrize("data", [b"", b"GET / HTT", UNFINISHED], ids=["nothing", "half a head", "half a body"])
def test_connections_that_wait_for_a_client_without_a_token_make_room_for_agents(
    server: Server, agent_id: UUID, data: bytes
) -> None:
    with ExitStack() as stack:
        for _ in range(2 * FILES):
            with suppress(OSError):
                stack.enter_context(connect(server.tls, server.agent_port)).sendall(data)
        with server.log_in(agent_id) as agent:
            assert agent.get("/commands", params={"wait": 0}).status_code == 200
        assert server.management().get("/ready").status_code == 200
    assert "connections are in use" in log_of(server)


@pytest.mark.parametrize("data", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["nothing", "half a hello"])
def test_connections_that_never_finish_their_handshake_make_room_for_agents(
    server: Server, agent_id: UUID, data: bytes
) -> None:
    with ExitStack() as stack:
        for _ in range(2 * FILES):
            with suppress(OSError):
                plain = stack.enter_context(socket.create_connection(("127.0.0.1", server.agent_port), PATIENCE))
                plain.sendall(data)
        with server.log_in(agent_id) as agent:
            assert agent.get("/commands", params={"wait": 0}).status_code == 200
        assert server.management().get("/ready").status_code == 200
    wait_until(lambda: is_served(server))


def test_connections_beyond_the_limit_of_open_files_are_refused_and_logged(server: Server, agent_id: UUID) -> None:
    poll = request("GET", "/commands?wait=0", server.token(agent_id)).replace(b"Connection: close\r\n", b"")
    with ExitStack() as stack:
        for _ in range(FILES):
            with suppress(OSError):
                connection = stack.enter_context(connect(server.tls, server.agent_port))
                connection.sendall(poll)
                read_answer(connection)
        assert "refused a connection: all" in log_of(server)
        assert server.management().get("/ready").status_code == 200
    wait_until(lambda: is_served(server))


def test_a_node_raises_its_limit_of_open_files_and_holds_as_many_polls_as_it_says(
    folder: Path, new_database: Callable[[], str]
) -> None:
    prefix = ["prlimit", f"--nofile={FILES}:{4 * FILES}"]
    with running_server(folder / "raised", new_database(), prefix=prefix) as server, ExitStack() as stack:
        assert psutil.Process(server.process.pid).rlimit(psutil.RLIMIT_NOFILE) == (4 * FILES, 4 * FILES)
        room = re.search(r"room for (\d+) connections of agents, one for each poll", log_of(server))
        assert room is not None
        assert FILES < int(room[1]) < 4 * FILES
        token = server.token(server.enroll(server.management(), "poller"))
        poll = request("GET", "/commands", token).replace(b"Connection: close\r\n", b"")
        polls = [stack.enter_context(connect(server.tls, server.agent_port)) for _ in range(FILES + 50)]
        for connection in polls:
            connection.sendall(poll)  # it ends the poll before it, whose connection stays open
        assert [read_answer(connection).status for connection in polls[:-1]] == [200] * (len(polls) - 1)
        assert server.management().get("/ready").status_code == 200


def test_a_shortage_of_files_is_logged_and_the_management_api_answers(server: Server, agent_id: UUID) -> None:
    process, management = psutil.Process(server.process.pid), server.management()
    token = server.token(agent_id)
    assert management.get("/ready").status_code == 200
    process.rlimit(psutil.RLIMIT_NOFILE, (process.num_fds(), FILES))  # as if something else had opened files
    try:
        with ExitStack() as stack:
            held = [stack.enter_context(socket.create_connection(("127.0.0.1", server.agent_port))) for _ in range(5)]
            wait_until(lambda: "cannot accept a connection: Too many open files" in log_of(server))
            assert management.get("/ready").status_code == 200
            assert len(held) == 5
    finally:
        process.rlimit(psutil.RLIMIT_NOFILE, (FILES, FILES))
    wait_until(lambda: is_served(server))
    assert server.client(server.agent_url, token).get("/commands", params={"wait": 0}).status_code == 200


def test_failed_handshakes_leave_no_open_files(server: Server) -> None:
    process = psutil.Process(server.process.pid)
    wait_until(lambda: is_served(server))
    before = process.num_fds()
    for _ in range(2 * FILES):
        with socket.create_connection(("127.0.0.1", server.agent_port), timeout=PATIENCE) as plain:
            plain.sendall(b"no handshake\r\n\r\n")
            with suppress(OSError):
                while plain.recv(1024):
                    pass
    wait_until(lambda: process.num_fds() <= before + 2)
    wait_until(lambda: is_served(server))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_gets_no_ticket_that_would_resume_its_session(server: Server, version: ssl.TLSVersion) -> None:
    tls = server.tls
    tls.minimum_version = tls.maximum_version = version
    for port in (server.agent_port, server.management_port):
        with connect(tls, port) as connection:
            connection.sendall(request("GET", "/", None))
            read_answer(connection)
            assert connection.session is None or not connection.session.has_ticket


def test_an_address_holds_no_more_connections_than_the_setting_allows(
    folder: Path, new_database: Callable[[], str]
) -> None:
    with (
        running_server(folder / "few", new_database(), connections_per_address_maximum=5) as server,
        ExitStack() as stack,
    ):
        for _ in range(5):
            stack.enter_context(connect(server.tls, server.agent_port))
        with pytest.raises(OSError, match=r"closed|reset|EOF"):
            connect(server.tls, server.agent_port)
        transport = httpx.HTTPTransport(verify=server.tls, local_address="127.0.0.9")
        with httpx.Client(transport=transport, timeout=PATIENCE) as other:
            assert other.get(server.agent_url).status_code == 200
        assert "127.0.0.1 holds 5 (connections_per_address_maximum)" in log_of(server)


def from_proxy(server: Server, header: bytes, data: bytes) -> Answer:
    """Return the answer to a request behind a PROXY header."""
    address = ("127.0.0.1", server.agent_port)
    with socket.create_connection(address, PATIENCE, source_address=(PROXY, 0)) as plain:
        plain.sendall(header[:5])
        plain.sendall(header[5:])
        with server.tls.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
            connection.sendall(data)
            return read_answer(connection)


def test_the_client_is_the_one_that_a_trusted_proxy_names(server: Server, agent_id: UUID) -> None:
    poll = request("GET", "/commands?wait=0", server.token(agent_id))
    management = server.management()

    def seen() -> object:
        assert from_proxy(server, NAMED, poll).status == 200
        return management.get(f"/agents/{agent_id}").json()["remote_address"]

    wait_until(lambda: seen() == "203.0.113.9")


@pytest.mark.parametrize("data", [b"\x16\x03\x01\x02\x00\x01", b"PROXY TCP4 nonsense\r\n", b"GET / HTTP/1.1\r\n\r\n"])
def test_a_connection_of_a_trusted_proxy_without_its_header_is_closed(server: Server, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.agent_port), PATIENCE, source_address=(PROXY, 0)) as plain:
        plain.sendall(data)
        assert is_closed(plain)
    assert is_served(server)


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_a_header_from_an_untrusted_peer_is_ignored(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.agent_port), timeout=PATIENCE) as plain:
        plain.sendall(NAMED)
        assert is_closed(plain)
