"""A continuous command reaches agents that match later without a sweep, is shown, and can be cancelled."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from support.batches import command
from support.databases import querying
from support.server import Server, running_server
from support.waiting import PATIENCE, wait_until

SWEEP_SECONDS = 3_600
UNTIL = (datetime.now(UTC) + timedelta(hours=1)).isoformat()


@pytest.fixture(scope="module")
def group(management: httpx.Client) -> str:
    assert management.post("/groups", json={"name": "later"}).status_code == 201
    return "later"


def submit(management: httpx.Client, group: str) -> str:
    body = command(group, "group", continuous=True, until=UNTIL)
    answer = management.post("/commands", json=body)
    assert answer.status_code == 201, answer.text
    request_id: str = answer.json()["commands"][0]["request_id"]
    return request_id


def test_agents_that_enroll_or_move_get_their_order_at_their_held_poll(
    management: httpx.Client, group: str, server: Server
) -> None:
    request_id = submit(management, group)
    agent = server.log_in(server.enroll(management, "newcomer", (group,)))
    [order] = agent.get(f"/commands?wait={PATIENCE:g}").json()["commands"]
    assert order["request_id"] == request_id
    progress = management.get(f"/commands/{request_id}").json()
    assert (progress["command"]["continuous"], progress["orders"]["total"]) == (True, 1)


def test_a_poll_at_another_node_gets_the_order_by_a_notification_and_only_once(
    folder: Path, new_database: Callable[[], str]
) -> None:
    url = new_database()
    query = querying(url)
    with (  # no sweep: only a notification ends the poll
        running_server(folder, url, sweep_seconds=SWEEP_SECONDS) as changed,
        running_server(folder, url, sweep_seconds=SWEEP_SECONDS) as polled,
        ThreadPoolExecutor() as threads,
    ):
        management = changed.management()
        target = {"type": "all", "filter": {"labels": {"site": "rome"}}}
        body = command("", continuous=True, until=UNTIL) | {"target": target}
        [submitted] = management.post("/commands", json=body).json()["commands"]
        agent_id = changed.enroll(management, "mover")
        poll = threads.submit(polled.log_in(agent_id).get, f"/commands?wait={PATIENCE:g}")
        wait_until(lambda: sum(node["polls"] for node in management.get("/nodes").json()) == 1)
        for site in ("rome", "oslo", "rome"):
            assert management.patch(f"/agents/{agent_id}", json={"labels": {"site": site}}).is_success
            wait_until(lambda: not query("SELECT FROM changed_agents"))
        [order] = poll.result().json()["commands"]
        assert order["request_id"] == submitted["request_id"]
        assert query("SELECT count(*) FROM orders")[0][0] == 1


def test_continuous_commands_are_listed_until_they_are_cancelled(management: httpx.Client, group: str) -> None:
    request_id = submit(management, group)

    def listed() -> list[str]:
        items = management.get("/commands?continuous=true").json()["items"]
        return [item["request_id"] for item in items]

    assert request_id in listed()
    assert management.post(f"/commands/{request_id}/cancel").status_code == 200
    assert request_id not in listed()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"continuous": True}, "commands[0].until"),
        ({"until": UNTIL}, "commands[0].until"),
        ({"continuous": True, "until": "2020-01-01T00:00:00Z"}, "commands[0].until"),
        ({"continuous": True, "until": "2999-01-01T00:00:00Z"}, "commands[0].until"),
        ({"continuous": True, "until": UNTIL, "offline": "skip"}, "commands[0].offline"),
        ({"continuous": True, "until": UNTIL, "rollout": {"percent": 5}}, "commands[0].rollout"),
        ({"continuous": True, "until": UNTIL, "target": {"type": "server", "id": "rbac"}}, "commands[0].target.type"),
        (
            {"continuous": True, "until": UNTIL, "target": {"type": "all", "filter": {"status": "active"}}},
            "commands[0].target.filter.status",
        ),
        (
            {"continuous": True, "until": UNTIL, "action": {"name": "set-group", "args": {"groups": []}}},
            "commands[0].action.name",
        ),
        ({"continuous": True, "until": UNTIL, "target": {"type": "group", "id": "nowhere"}}, "there is no group"),
    ],
)
def test_what_cannot_be_continuous_is_refused(
    management: httpx.Client, group: str, changes: dict[str, object], fault: str
) -> None:
    answer = management.post("/commands", json=command(group, "group") | changes)
    assert (answer.status_code, fault in answer.json()["detail"]) == (422, True), answer.text
