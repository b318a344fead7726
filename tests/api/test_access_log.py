"""The access log has one line for each request and no secret; bodies have time limits by kind of request."""

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from support.batches import stateless
from support.raw import connect, read_answer, request, send_parts
from support.server import KEY, PASSWORD, Server, running_server
from support.waiting import wait_until


@pytest.fixture(scope="module")
def server(folder: Path, database_url: str) -> Iterator[Server]:
    """A node with an access log, where only the batches of events have little time."""
    limits = {"body_timeout_seconds": 3600, "login_body_timeout_seconds": 3600, "stateless_body_timeout_seconds": 0.5}
    with running_server(folder, database_url, access_log=True, **limits) as running:
        yield running


@pytest.fixture(scope="module")
def agent_id(server: Server, management: httpx.Client) -> UUID:
    return server.enroll(management, "logged")


def await_line(server: Server, *parts: str) -> str:
    """Return the line of the log that contains all the parts, once it has been written."""
    log = server.folder / "log"

    def lines() -> list[str]:
        return [line for line in log.read_text().splitlines() if all(part in line for part in parts)]

    wait_until(lines, says=log.read_text)
    return lines()[0]


def test_each_request_has_a_line_with_its_client(server: Server, management: httpx.Client, agent_id: UUID) -> None:
    agent = server.log_in(agent_id)
    assert agent.post("/events/stateless", content=stateless(agent_id, {"n": 1})).status_code == 204
    assert agent.get("/commands?wait=0.2").status_code == 200
    assert management.head("/agents?limit=1").status_code == 200
    assert ' 127.0.0.1 - "POST /login" 200 ' in await_line(server, "/login")
    assert f' 127.0.0.1 {agent_id} "POST /events/stateless" 204 0 B ' in await_line(server, "/events/stateless")
    poll = await_line(server, "/commands?wait=0.2")
    assert f'{agent_id} "GET /commands?wait=0.2" 200 15 B ' in poll
    assert float(poll.rpartition(" B ")[2].removesuffix(" ms")) > 100
    assert ' admin "HEAD /agents?limit=1" 200 0 B ' in await_line(server, "/agents?limit=1")


def test_refusals_are_logged_and_secrets_are_not(server: Server, management: httpx.Client, agent_id: UUID) -> None:
    anonymous = server.client(server.agent_url)
    assert anonymous.get("/commands").status_code == 401
    assert anonymous.post("/login", json={"uuid": str(agent_id), "key": "w" * 32}).status_code == 401
    assert management.get("/nothing%0Aforged").status_code == 404
    await_line(server, '127.0.0.1 - "GET /commands" 401 ')
    await_line(server, '127.0.0.1 - "POST /login" 401 ')
    await_line(server, '"GET /nothing%0Aforged" 404 ')
    log = (server.folder / "log").read_text()
    token = management.headers["Authorization"].removeprefix("Bearer ")
    assert not [secret for secret in (KEY, PASSWORD, "w" * 32, token) if secret in log]


def test_a_client_that_leaves_a_poll_has_a_line_without_a_status(server: Server, agent_id: UUID) -> None:
    with connect(server.tls, server.agent_port) as connection:
        connection.sendall(request("GET", "/commands?wait=60", server.token(agent_id)))
    assert '" - 0 B ' in await_line(server, f'{agent_id} "GET /commands?wait=60"')


def test_the_time_for_a_body_depends_on_the_route(server: Server, agent_id: UUID) -> None:
    token = server.token(agent_id)
    unfinished = {
        path: request("POST", path, token, stateless(agent_id, {"n": 1}))[:-1]
        for path in ("/events/stateful", "/login", "/api/v1/events/stateless")
    }
    with connect(server.tls, server.agent_port) as stateful, connect(server.tls, server.agent_port) as login:
        stateful.sendall(unfinished["/events/stateful"])
        login.sendall(unfinished["/login"])
        late = send_parts(server.tls, server.agent_port, [unfinished["/api/v1/events/stateless"]])
        assert late.status == 408
        for connection in (stateful, login):
            connection.sendall(b"\n")
            assert read_answer(connection).status in {200, 400}
