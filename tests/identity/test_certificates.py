"""Mutual TLS: an agent with a certificate can log in only as the agent that the certificate names."""

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import trustme
from support.server import KEY, Server, new_id, running_server
from support.waiting import PATIENCE


class Fleet:
    """A server that requests certificates, and the authority that issues them."""

    def __init__(self, server: Server, authority: trustme.CA) -> None:
        self.server = server
        self.authority = authority

    def context(self, name: str | None) -> ssl.SSLContext:
        context = self.server.tls
        if name is not None:
            self.authority.issue_cert(f"{new_id()}.example", common_name=name).configure_cert(context)
        return context

    def log_in(self, agent_id: object, name: str | None) -> httpx.Response:
        with httpx.Client(base_url=self.server.agent_url, verify=self.context(name), timeout=PATIENCE) as client:
            return client.post("/login", json={"uuid": str(agent_id), "key": KEY})

    def poll(self, token: str, name: str | None) -> int:
        with httpx.Client(base_url=self.server.agent_url, verify=self.context(name), timeout=PATIENCE) as client:
            return client.get("/commands?wait=0", headers={"Authorization": f"Bearer {token}"}).status_code


@pytest.fixture(scope="module", params=["optional", "required"])
def fleet(request: pytest.FixtureRequest, folder: Path, new_database: Callable[[], str]) -> Iterator[Fleet]:
    authority = trustme.CA()
    path = folder / f"agents-{request.param}.pem"
    authority.cert_pem.write_to_path(path)
    settings = {"client_certificates": request.param, "client_ca": path}
    with running_server(folder / request.param, new_database(), **settings) as server:
        yield Fleet(server, authority)


def test_a_certificate_admits_only_the_agent_that_it_names(fleet: Fleet) -> None:
    management = fleet.server.management()
    agent_id, other = (fleet.server.enroll(management, name) for name in ("certified", "other"))
    answer = fleet.log_in(agent_id, str(agent_id))
    assert answer.status_code == 200, answer.text
    assert fleet.log_in(agent_id, str(other)).status_code == 403
    token = answer.json()["token"]
    assert [fleet.poll(token, str(name)) for name in (agent_id, other)] == [200, 403]


def test_a_certificate_without_an_agent_id_admits_no_agent(fleet: Fleet) -> None:
    agent_id = fleet.server.enroll(fleet.server.management(), "nameless")
    context = fleet.server.tls
    fleet.authority.issue_cert("some-machine.example").configure_cert(context)
    with httpx.Client(base_url=fleet.server.agent_url, verify=context, timeout=PATIENCE) as client:
        assert client.post("/login", json={"uuid": str(agent_id), "key": KEY}).status_code == 403


def test_an_agent_without_a_certificate_is_admitted_only_where_none_is_required(
    fleet: Fleet, request: pytest.FixtureRequest
) -> None:
    agent_id = fleet.server.enroll(fleet.server.management(), "bare")
    if "optional" in request.node.name:
        assert fleet.log_in(agent_id, None).status_code == 200
    else:
        with pytest.raises(httpx.TransportError):
            fleet.log_in(agent_id, None)


def test_a_certificate_of_another_authority_is_refused(fleet: Fleet) -> None:
    agent_id = fleet.server.enroll(fleet.server.management(), "stranger")
    stranger = Fleet(fleet.server, trustme.CA())
    with pytest.raises(httpx.TransportError):
        stranger.log_in(agent_id, str(agent_id))
