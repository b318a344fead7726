"""The bytes that real agents send to enroll, log in, poll and fetch files, each on a raw TLS socket."""

import base64
import json
import socket
import ssl
from uuid import NAMESPACE_DNS, UUID, uuid4, uuid5

import httpx
import pytest
from support.server import KEY, PASSWORD, Server, new_id
from support.waiting import PATIENCE

from comms_api.errors import Invalid
from comms_api.key_requests.model import Question

AGENT = "User-Agent: WazuhXDR/v6.0.0 (Endpoint; x86_64; Debian)\r\nAccept: application/json\r\n"


def exchange(server: Server, port: int, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes on a new connection without SNI or ALPN, and return status, headers and body."""
    tls = server.tls
    tls.check_hostname = False
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as raw, tls.wrap_socket(raw) as connection:
        connection.sendall(request)
        received = b""
        while b"\r\n\r\n" not in received:
            received += connection.recv(65_536)
        head, _, body = received.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        while len(body) < int(headers.get("content-length", 0)):
            body += connection.recv(65_536)
    return int(first.split()[1]), headers, body


@pytest.mark.parametrize("agent_id", [uuid4(), new_id()], ids=["UUIDv4", "UUIDv7"])
def test_a_real_agent_from_its_enrollment_to_its_files(
    server: Server, management: httpx.Client, agent_id: UUID
) -> None:
    management.post("/groups", json={"name": "default"})
    management.put("/groups/default/files/default.yml", content="logcollector:\n  enabled: true\n")
    credentials = base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
    # No body and no Content-Length.
    status, headers, body = exchange(
        server,
        server.management_port,
        f"POST /security/user/authenticate HTTP/1.1\r\nHost: localhost\r\n{AGENT}"
        f"Authorization: Basic {credentials}\r\n\r\n".encode(),
    )
    answer = json.loads(body)
    assert (status, answer["error"]) == (200, 0)
    assert headers["content-type"].startswith("application/json")
    enrollment = json.dumps(
        {
            "id": str(agent_id), "name": f"real-{agent_id}", "key": KEY, "type": "Endpoint",
            "version": "v6.0.0", "groups": ["default"],
            "host": {"architecture": "x86_64", "hostname": "real", "ip": ["10.0.0.1"],
                     "os": {"name": "Debian", "type": "Linux"}},
        }
    )  # fmt: skip
    request = (
        f"POST /agents HTTP/1.1\r\nHost: localhost\r\n{AGENT}Authorization: Bearer {answer['data']['token']}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(enrollment)}\r\n\r\n{enrollment}"
    )
    assert exchange(server, server.management_port, request.encode())[0] == 201
    login = json.dumps({"uuid": str(agent_id), "key": KEY})
    request = (
        f"POST /api/v1/authentication HTTP/1.1\r\nHost: localhost\r\n{AGENT}"
        f"Content-Type: application/json\r\nContent-Length: {len(login)}\r\n\r\n{login}"
    )
    status, _, body = exchange(server, server.agent_port, request.encode())
    token = json.loads(body)["token"]
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert (status, claims["uuid"], claims["exp"] - int(claims["iat"])) == (200, str(agent_id), 900)
    bearer = f"Host: localhost\r\n{AGENT}Authorization: Bearer {token}\r\n\r\n"
    status, headers, body = exchange(
        server, server.agent_port, f"GET /api/v1/files?file_name=default.yml HTTP/1.1\r\n{bearer}".encode()
    )
    assert (status, body) == (200, b"logcollector:\n  enabled: true\n")
    status, _, body = exchange(server, server.agent_port, f"GET /api/v1/commands?wait=0 HTTP/1.1\r\n{bearer}".encode())
    assert (status, json.loads(body)) == (200, {"commands": []})
    status, _, body = exchange(
        server, server.agent_port, f"GET /api/v1/files?file_name=other.yml HTTP/1.1\r\n{bearer}".encode()
    )
    assert (status, json.loads(body)["code"]) == (404, 2705)


@pytest.mark.parametrize(
    "agent_id",
    [UUID("01920a5e-7a3c-1cc1-8f4e-1d2b3c4d5e6f"), uuid5(NAMESPACE_DNS, "a"), UUID(int=0), UUID(int=7 << 76)],
    ids=["version 1", "version 5", "nil", "another variant"],
)
def test_an_id_of_another_uuid_version_is_refused(server: Server, management: httpx.Client, agent_id: UUID) -> None:
    enrollment = {"id": str(agent_id), "name": str(agent_id), "key": KEY}
    refused = management.post("/agents", json=enrollment)
    assert (refused.status_code, refused.json()["detail"]) == (422, "id: must be a UUID of version 4 or 7")
    with pytest.raises(Invalid):
        Question("id", str(agent_id))
    with httpx.Client(base_url=server.agent_url, verify=server.tls, timeout=PATIENCE) as client:
        assert client.post("/login", json={"uuid": str(agent_id), "key": KEY}).status_code == 422


@pytest.mark.parametrize(
    ("credentials", "status", "message"),
    [
        ({"uuid": "01a1fd30-0000-7000-8000-000000000000", "key": KEY}, 403, "Agent does not exist"),
        ({"uuid": "none", "key": KEY}, 422, ""),
        ({"uuid": 5}, 400, ""),
    ],
)
def test_a_login_that_fails_says_what_real_agents_read(
    server: Server, credentials: dict[str, object], status: int, message: str
) -> None:
    body = json.dumps(credentials)
    request = f"POST /api/v1/authentication HTTP/1.1\r\nHost: x\r\n{AGENT}Content-Length: {len(body)}\r\n\r\n{body}"
    answered, _, answer = exchange(server, server.agent_port, request.encode())
    assert answered == status
    assert json.loads(answer).keys() >= {"message", "code"}
    assert message in json.loads(answer)["message"]


def test_an_old_protocol_version_is_refused(server: Server) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    with pytest.warns(DeprecationWarning, match="TLS"):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    raw = socket.create_connection(("127.0.0.1", server.agent_port), timeout=PATIENCE)
    with raw, pytest.raises((ssl.SSLError, OSError)):
        old.wrap_socket(raw)
