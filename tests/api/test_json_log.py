"""The log in JSON: each line names its request, and no line has a secret or the content of an event."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from support.batches import command, state, stateful, stateless
from support.server import KEY, PASSWORD, Server, running_server
from support.waiting import wait_until

CANARY = "canary-5f3a"


@pytest.fixture(scope="module")
def server(folder: Path, database_url: str) -> Iterator[Server]:
    with running_server(
        folder, database_url, log_format="json", log_level="DEBUG", access_log=True, node_name="node-json"
    ) as running:
        yield running


def await_line(server: Server, **members: object) -> dict[str, Any]:
    """Return the first line with these members, once it has been written."""
    log = server.folder / "log"

    def lines() -> list[dict[str, Any]]:
        complete = log.read_text().rpartition("\n")[0].splitlines()
        decoded = [msgspec.json.decode(line) for line in complete if line.startswith("{")]
        return [line for line in decoded if members.items() <= line.items()]

    wait_until(lines, says=log.read_text)
    return lines()[0]


def test_a_line_names_the_node_the_request_the_route_and_the_agent(server: Server, management: httpx.Client) -> None:
    agent_id = server.enroll(management, "logged")
    agent = server.log_in(agent_id)
    assert agent.post("/events/stateless", content=stateless(agent_id, {"n": 1})).status_code == 204
    line = await_line(server, route="/events/stateless", status=204)
    assert line["node"] == "node-json"
    assert line["level"] == "INFO"
    assert line["subject"] == str(agent_id)
    assert line["client"] == "127.0.0.1"
    assert line["seconds"] > 0
    assert management.get(f"/agents/{agent_id}").status_code == 200
    assert await_line(server, route="/agents/{agent}", status=200)["subject"] == "admin"


def test_the_instance_of_a_problem_finds_the_lines_of_its_request(server: Server, management: httpx.Client) -> None:
    problem = management.get("/nothing").json()
    line = await_line(server, request=problem["instance"].removeprefix("urn:uuid:"), status=404)
    assert line["method"] == "GET"


def test_no_line_has_a_secret_or_an_event(server: Server, management: httpx.Client) -> None:
    agent_id = server.enroll(management, "secretive")
    agent = server.log_in(agent_id)
    token = agent.headers["Authorization"].removeprefix("Bearer ")
    assert agent.post("/events/stateless", content=stateless(agent_id, {"text": CANARY})).status_code == 204
    broken = stateless(agent_id, {"n": 1}) + b'{"' + CANARY.encode() + b"\n"
    assert agent.post("/events/stateless", content=broken).status_code == 204
    assert (
        agent.post("/events/stateful", content=stateful(agent_id, state("1", data={"text": CANARY}))).status_code == 200
    )
    wrong = {"uuid": str(agent_id), "key": CANARY.ljust(32, "x")}
    assert server.client(server.agent_url).post("/login", json=wrong).status_code == 401
    assert management.get("/end-of-test").status_code == 404
    await_line(server, route="/end-of-test")
    log = (server.folder / "log").read_text()
    assert str(agent_id) in log
    for secret in (CANARY, KEY, PASSWORD, token, token.rpartition(".")[2]):
        assert secret not in log


def test_no_line_has_a_secret_that_the_server_makes_or_the_content_of_a_command_or_file(
    server: Server, management: httpx.Client
) -> None:
    visitor = server.client(server.management_url)
    login = visitor.post("/security/user/authenticate", auth=("admin", PASSWORD)).json()["data"]
    refreshed = visitor.post("/security/user/refresh", json={"refresh_token": login["refresh_token"]}).json()["data"]
    form = {"name": "admin", "password": PASSWORD}
    session = visitor.post("/console/sign-in", data=form, headers={"Sec-Fetch-Site": "same-origin"}).cookies
    enrollment = management.post("/enrollment-tokens", json={"expires_in": 600}).json()["token"]
    enrolled = server.client(server.agent_url, enrollment).post("/enroll", json={"name": "canary-enrolled"}).json()
    created = management.post("/agents", json={"name": "canary-created"}).json()
    hook = {"name": "canary", "url": "https://receiver.example/hook", "kinds": ["disconnected"]}
    webhook = management.post("/webhooks", json=hook).json()
    assert management.post("/groups", json={"name": "canaries"}).status_code == 201
    for content in (f"text: {CANARY}", f"{CANARY}: [unfinished"):
        management.put("/groups/canaries/files/canary.yml", content=content)
    management.post("/users", content=f'{{"name": "{CANARY}')
    agent_id = server.enroll(management, "commanded")
    order = command(agent_id) | {"action": {"name": "unheard-of", "args": {"text": CANARY}}}
    order_ids = management.post("/commands", json=order).json()["commands"][0]["order_ids"]
    agent = server.log_in(agent_id)
    assert len(agent.get("/commands").json()["commands"]) == 1
    result = {"code": 1, "message": CANARY, "data": {"text": CANARY}}
    agent.post("/commands/results", json={"results": [{"order_id": order_ids[0], "result": result}]})
    agent.post("/commands/results", content=f'{{"results": ["{CANARY}')
    assert management.get("/end-of-secrets").status_code == 404
    await_line(server, route="/end-of-secrets")
    log = (server.folder / "log").read_text()
    made = [*login.values(), *refreshed.values(), *session.values(), enrollment, enrolled["key"], created["key"]]
    files = [server.folder / "data" / "secret", server.folder / "certs" / "server.key"]
    secrets = [text for text in made if isinstance(text, str)] + [webhook["secret"], CANARY, PASSWORD]
    lines = [line for file in files for line in file.read_text().splitlines() if not line.startswith("-----")]
    for secret in [*secrets, *lines]:
        assert secret
        assert secret not in log
