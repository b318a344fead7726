"""A command waits for offline agents, or skips them, as it says."""

import httpx
import pytest
from support.batches import command
from support.server import Server
from support.waiting import wait_until


@pytest.fixture(scope="module")
def group(server: Server, management: httpx.Client) -> str:
    """A group with an active agent, one that never came, and one that has not come for long."""
    assert management.post("/groups", json={"name": "mixed"}).status_code == 201
    server.enroll(management, "absent", ("mixed",))
    agent = server.log_in(server.enroll(management, "active", ("mixed",)))
    assert agent.get("/commands?wait=0").status_code == 200
    wait_until(lambda: management.get("/agents/active").json()["status"] == "active")
    return "mixed"


def test_offline_agents_are_skipped_and_counted(management: httpx.Client, group: str) -> None:
    body = command(group, "group", offline="skip")
    [rehearsed] = management.post("/commands?dry_run=1", json=body).json()["commands"]
    assert (rehearsed["orders"], rehearsed["skipped"]) == (1, 1)
    [submitted] = management.post("/commands", json=body).json()["commands"]
    assert (submitted["orders"], submitted["skipped"]) == (1, 1)
    [order] = management.get("/orders", params={"request_id": submitted["request_id"]}).json()["items"]
    assert order["agent_id"] == management.get("/agents/active").json()["id"]
    shown = management.get(f"/commands/{submitted['request_id']}").json()["command"]
    assert (shown["offline"], shown["skipped"]) == ("skip", 1)


def test_orders_wait_for_offline_agents_by_default(management: httpx.Client, group: str) -> None:
    for changes in ({}, {"offline": "wait"}):
        [submitted] = management.post("/commands", json=command(group, "group", **changes)).json()["commands"]
        assert (submitted["orders"], submitted["skipped"]) == (2, 0)


def test_a_command_that_skips_every_agent_is_done_at_once(management: httpx.Client, group: str) -> None:
    absent = management.get("/agents/absent").json()["id"]
    answer = management.post("/commands", json=command(absent, offline="skip"))
    assert answer.status_code == 201, (answer.text, group)
    [submitted] = answer.json()["commands"]
    assert (submitted["orders"], submitted["skipped"]) == (0, 1)
    progress = management.get(f"/commands/{submitted['request_id']}").json()
    assert (progress["is_done"], progress["orders"]["total"]) == (True, 0)


@pytest.mark.parametrize(
    ("target", "kind", "fault"),
    [
        ("no-such-agent", "agent", "there is no agent"),
        ("no-such-group", "group", "there is no group"),
        ("rbac", "server", "only agents can be skipped"),
    ],
)
def test_a_skip_hides_no_wrong_target(management: httpx.Client, target: str, kind: str, fault: str) -> None:
    answer = management.post("/commands", json=command(target, kind, offline="skip"))
    assert (answer.status_code, fault in answer.json()["detail"]) == (422, True), answer.text
