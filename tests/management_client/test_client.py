"""The client of the management API, as a Python program uses it."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import trustme
from support.ports import free_ports
from support.server import PASSWORD, Server
from support.tls import server_tls
from support.waiting import PATIENCE

from comms_api.agents.model import Agent
from comms_api.client.transport.endpoint import Endpoint
from comms_api.errors import Unavailable
from comms_api.management_client.client import IDEMPOTENCY_KEY, ManagementClient, Refused, Unreachable, Untrusted
from comms_api.management_client.logins import Password

PAGE = Path(__file__).parents[2] / "docs" / "operations" / "command-line.md"


@dataclass
class BusyServer:
    """A server that answers the next requests with these statuses, and then with 200."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    retry_after: str = "1"
    requests: list[str] = field(default_factory=list)

    def answer(self, call: str) -> int:
        self.requests.append(call)
        return self.statuses.pop(0) if self.statuses and "authenticate" not in call else 200


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[BusyServer]:
    busy = BusyServer()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            status = busy.answer(f"{self.command} {self.path}")
            tokens = {"token": f"token-{len(busy.requests)}", "refresh_token": "r", "expires_in": 900}
            body = {"data": tokens} if "authenticate" in self.path else {"detail": f"status {status}"}
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Retry-After", busy.retry_after)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = answer  # noqa: N815 - the names of http.server

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = server_tls(tmp_path / "ca.pem", "127.0.0.1").wrap_socket(server.socket, server_side=True)
    busy.url = f"https://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield busy
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def client(busy: BusyServer, tmp_path: Path) -> Iterator[ManagementClient]:
    endpoint = Endpoint(busy.url, tmp_path / "ca.pem", is_direct=True)
    with ManagementClient(endpoint, Password("admin", PASSWORD), PATIENCE) as client:
        yield client


@pytest.mark.parametrize("status", [429, 503])
def test_a_request_is_repeated_while_the_server_is_busy(
    busy: BusyServer, client: ManagementClient, status: int
) -> None:
    busy.statuses = [status, status]
    assert client.ask("GET", "/agents").status_code == 200
    assert busy.requests[1:] == ["GET /agents"] * 3


def test_a_post_is_repeated_only_with_an_idempotency_key(busy: BusyServer, client: ManagementClient) -> None:
    busy.statuses = [503]
    with pytest.raises(Unavailable, match=r"status 503 \(in 1 s\)"):
        client.call(dict, "POST", "/commands", {})
    busy.statuses = [503]
    assert client.call(dict, "POST", "/commands", {}, headers={IDEMPOTENCY_KEY: "k"}) == {"detail": "status 200"}
    assert busy.requests.count("POST /commands") == 3


def test_a_request_is_not_repeated_beyond_the_patience(busy: BusyServer, client: ManagementClient) -> None:
    busy.statuses, busy.retry_after = [429], "999999"
    with pytest.raises(Unavailable) as raised:
        client.ask("GET", "/agents")
    assert raised.value.retry_after_seconds == 999_999
    assert busy.requests.count("GET /agents") == 1


@pytest.mark.parametrize("status", [502, 504])
def test_a_load_balancer_without_a_server_is_an_outage(busy: BusyServer, client: ManagementClient, status: int) -> None:
    busy.statuses = [status]
    with pytest.raises(Unavailable):
        client.ask("GET", "/agents")


def test_an_expired_token_is_replaced_once(busy: BusyServer, client: ManagementClient) -> None:
    busy.statuses = [401]
    assert client.ask("GET", "/agents").status_code == 200
    busy.statuses = [401, 401]
    with pytest.raises(Refused) as raised:
        client.ask("GET", "/agents")
    assert raised.value.status == 401


def test_faults_of_the_connection_are_told_apart(busy: BusyServer, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    login = Password("admin", PASSWORD)
    with (
        ManagementClient(Endpoint(busy.url, other, is_direct=True), login) as client,
        pytest.raises(Untrusted, match="certificate"),
    ):
        client.ask("GET", "/agents")
    nowhere = Endpoint(f"https://127.0.0.1:{free_ports(1)[0]}", other, is_direct=True)
    with ManagementClient(nowhere, login) as client, pytest.raises(Unreachable, match="refused"):
        client.ask("GET", "/agents")


def test_pages_are_followed_and_read_as_structures(server: Server, management: httpx.Client) -> None:
    ids = {server.enroll(management, f"paged-{number}") for number in range(5)}
    endpoint = Endpoint(server.management_url, server.ca, is_direct=True)
    with ManagementClient(endpoint, Password("admin", PASSWORD)) as client:
        found = list(client.pages("/agents", {"limit": 2, "name": "paged-*"}, Agent))
        assert {agent.id for agent in found} == ids
        with pytest.raises(Refused) as raised:
            client.call(Agent, "GET", "/agents/nobody")
    assert (raised.value.status, raised.value.detail) == (404, "There is no agent 'nobody'.")


def test_the_example_of_the_page_runs(server: Server, management: httpx.Client) -> None:
    server.log_in(server.enroll(management, "example")).get("/commands?wait=0")
    [program] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    program = program.replace("https://localhost:55000", server.management_url).replace(
        "data/admin.password", "password"
    )
    program = program.replace('{"status": "active"}', "{}")  # the sighting may take a second
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=server.folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "example" in done.stdout
