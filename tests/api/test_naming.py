"""An agent may be named by id or by name everywhere, and unknown names are refused with a clear error."""

from typing import Any
from uuid import UUID

import httpx
import pytest
from support.batches import command, state, stateful, stateless
from support.server import Server, new_id
from support.waiting import wait_until

NAME = "web-1.example.org"


@pytest.fixture(scope="module")
def agent_id(server: Server, management: httpx.Client) -> UUID:
    """An agent in a group, with an event, a quarantined line, a state and an order."""
    management.post("/groups", json={"name": "named"})
    agent_id = server.enroll(management, NAME)
    client = server.log_in(agent_id)
    batch = stateless(agent_id, {"message": "named"}) + b"\nno json"
    assert client.post("/events/stateless", content=batch).status_code == 204
    assert client.post("/events/stateful", content=stateful(agent_id, state("a"))).status_code == 200
    return agent_id


@pytest.mark.parametrize("name", [NAME, "the id"])
def test_every_path_takes_a_name_or_an_id(management: httpx.Client, agent_id: UUID, name: str) -> None:
    agent = f"/agents/{agent_id if name == 'the id' else name}"
    assert management.get(agent).json()["id"] == str(agent_id)
    assert management.patch(agent, json={"labels": {"named": name}}).json()["labels"] == {"named": name}
    assert management.get(f"{agent}/configuration").json()["agent_id"] == str(agent_id)
    assert management.get(f"{agent}/configuration/merged").status_code == 200
    member = f"/groups/named{agent}"
    assert management.put(member).json() == {"added": 1}
    assert management.delete(member).status_code == 204


def test_every_filter_and_body_takes_a_name_or_an_id(management: httpx.Client, agent_id: UUID) -> None:
    assert management.post("/groups/named/agents", json={"agents": [NAME, str(agent_id)]}).json() == {"added": 1}
    named = command(agent_id) | {"target": {"type": "agent", "id": [NAME, str(agent_id)]}}
    [submitted] = management.post("/commands", json=named).json()["commands"]
    assert submitted["orders"] == 1
    # The server announces the new group by another order.
    for path in (f"/orders?request_id={submitted['request_id']}", "/events", "/events/quarantine", "/states"):
        url = httpx.URL(path)
        answers = [management.get(url.copy_merge_params({"agent_id": text})) for text in (NAME, str(agent_id))]
        listed = [answer.json()["items"] for answer in answers]
        assert len(listed[0]) == 1, path
        assert listed[0] == listed[1]
    for path in ("/orders", "/commands"):
        for text in (NAME, str(agent_id)):
            assert len(management.get(path, params={"target": text}).json()["items"]) == 1, (path, text)


def test_no_route_takes_the_id_of_an_agent_alone(management: httpx.Client) -> None:
    paths = management.get("/schema/openapi.json").json()["paths"]
    assert all(path.startswith("/agents/{agent}") for path in paths if path.startswith("/agents/"))
    taken = [one for methods in paths.values() for method in methods.values() for one in method.get("parameters", ())]
    of_agents = [parameter for parameter in taken if parameter["name"] in {"agent", "agent_id"}]
    assert len(of_agents) >= 10
    assert "uuid" not in str(of_agents)


def test_the_error_for_an_unknown_agent_contains_its_name(management: httpx.Client) -> None:
    for answer in (
        management.get("/agents/web-2"),
        management.get("/events?agent_id=web-2"),
        management.post("/groups/named/agents", json={"agents": [NAME, "web-2"]}),
    ):
        assert (answer.status_code, answer.json()["detail"]) == (404, "There is no agent 'web-2'.")
    unknown = command(new_id()) | {"target": {"type": "agent", "id": [NAME, "web-2"]}}
    refused = management.post("/commands", json=unknown)
    assert refused.json()["detail"].startswith("commands[0].target.id: there is no agent 'web-2'")


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("/agents?lable=a:b", "'lable': no such query parameter; did you mean 'label'?"),
        ("/orders?agent=web-1", "'agent': no such query parameter; did you mean 'agent_id'?"),
        ("/nodes?x=1", "'x': no such query parameter; this path takes none"),
        ("/groups?zzz=1", "'zzz': no such query parameter; there are after, limit"),
        ("/api/v1/commands?Limit=1", "'Limit': no such query parameter; did you mean 'limit'?"),
        ("/orders?status=done", "expected one of 'cancelled', 'failure', 'pending', 'sent', 'success'"),
        ("/agents?status=dead", "expected one of 'active', 'disconnected', 'never_connected'"),
    ],
)
def test_a_wrong_query_is_400_and_lists_the_right_parameters(management: httpx.Client, path: str, detail: str) -> None:
    answer = management.get(path)
    assert answer.status_code == 400
    assert detail in answer.json()["detail"]


def test_public_paths_and_the_agent_api_ignore_unknown_queries(server: Server, agent_id: UUID) -> None:
    anonymous = server.client(server.management_url)
    assert anonymous.get("/ready?from=balancer").status_code == 200
    assert anonymous.post("/security/user/authenticate?raw=true").status_code == 401
    assert anonymous.get("/agents?lable=x").status_code == 401
    assert server.log_in(agent_id).get("/commands?wait=0&new=1").status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "detail"),
    [
        ("/users", {"name": "a", "password": "correct horse", "role": "root"}, "role: Invalid enum value 'root'"),
        ("/users", {"name": "a", "password": "correct horse", "role": "root"}, "'administrator', 'operator'"),
        ("/commands", {"source": "me", "target": {}, "action": {}, "timeout": 1}, "'Engine', 'Users/Services'"),
        ("/agents", {"name": "a", "key": "b", "groups": {}}, "groups: Expected `array`, got `object`"),
    ],
)
def test_the_error_for_a_wrong_member_names_it_and_the_right_values(
    management: httpx.Client, path: str, body: dict[str, Any], detail: str
) -> None:
    answer = management.post(path, json=body)
    assert answer.status_code in {400, 422}
    assert detail in answer.json()["detail"]


def test_the_error_for_an_unknown_path_names_the_path_and_the_api(server: Server, management: httpx.Client) -> None:
    agent_api = server.client(server.agent_url).get("/agents")
    assert agent_api.status_code == 404
    assert agent_api.json()["detail"].startswith("The agent API has no path '/agents'")
    assert management.get("/nowhere").json()["detail"].startswith("The management API has no path '/nowhere'")


def test_the_status_of_a_named_agent_is_found(server: Server, management: httpx.Client, agent_id: UUID) -> None:
    server.log_in(agent_id)
    wait_until(lambda: management.get(f"/agents/{NAME}").json()["status"] == "active")
