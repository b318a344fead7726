"""The command manager as operators, services and agents use it, on a real server."""

import csv
import io
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from support.batches import command
from support.server import KEY, Server, new_id, running_server
from support.waiting import PATIENCE, wait_until

from comms_api.app.apis import MANAGEMENT_HANDLERS

Fleet = dict[str, httpx.Client]
Query = Callable[..., list[Any]]


def submit(management: httpx.Client, *commands: dict[str, Any]) -> list[str]:
    """Submit commands and return their ids."""
    answer = management.post("/commands", json={"commands": list(commands)})
    assert answer.status_code == 201, answer.text
    return [submitted["request_id"] for submitted in answer.json()["commands"]]


def poll(client: httpx.Client, wait: float = 60) -> list[dict[str, Any]]:
    orders: list[dict[str, Any]] = client.get(f"/commands?wait={wait:g}").json()["commands"]
    return orders


def report(client: httpx.Client, orders: list[dict[str, Any]], code: int = 0, message: str = "") -> None:
    results = [
        {"order_id": order["order_id"], "result": {"code": code, "message": message, "data": {"n": 1}}}
        for order in orders
    ]
    outcomes = client.post("/commands/results", json={"results": results}).json()["results"]
    assert {outcome["result"] for outcome in outcomes} == {"updated"}


@pytest.fixture(scope="module")
def fleet(server: Server, management: httpx.Client) -> Fleet:
    """Four agents in two groups, with three systems and two labels; the last one never logs in."""
    for group in ("blue", "green", "empty"):
        management.post("/groups", json={"name": group})
    hosts = {
        "a": ("Debian GNU/Linux", "Linux", ["blue"], {"site": "one"}),
        "b": ("Ubuntu", "Linux", ["blue", "green"], {"site": "two"}),
        "c": ("Windows 11", "Windows", ["green"], {"site": "one", "tier": "test"}),
        "d": ("Debian GNU/Linux", "Linux", [], {}),
    }
    clients: Fleet = {}
    for name, (system, kind, groups, labels) in hosts.items():
        agent_id = new_id()
        body = {
            "id": str(agent_id),
            "name": name,
            "key": KEY,
            "version": "6.1.0" if name == "a" else "6.0.2",
            "groups": groups,
            "labels": labels,
            "host": {"hostname": name, "os": {"name": system, "type": kind}},
        }
        assert management.post("/agents", json=body).status_code == 201
        clients[name] = server.log_in(agent_id) if name != "d" else server.client(server.agent_url)
        clients[name].headers["X-Agent"] = str(agent_id)
        if name != "d":
            poll(clients[name], 0)
    wait_until(lambda: len(management.get("/agents?status=active").json()["items"]) >= 3)
    return clients


def names(fleet: Fleet, recipients: list[str]) -> str:
    """Return the agents of these ids, in order of their names."""
    return "".join(sorted(name for name, client in fleet.items() if client.headers["X-Agent"] in recipients))


@pytest.mark.parametrize(
    ("target", "meant"),
    [
        ({"type": "all"}, "abcd"),
        ({"type": "group", "id": "blue"}, "ab"),
        ({"type": "group", "id": ["blue", "green"]}, "abc"),
        ({"type": "all", "filter": {"os": "linux"}}, "abd"),
        ({"type": "all", "filter": {"os": "DEBIAN*"}}, "ad"),
        ({"type": "all", "filter": {"version": "6.0.*"}}, "bcd"),
        ({"type": "all", "filter": {"status": "active", "os": "debian*"}}, "a"),
        ({"type": "all", "filter": {"status": "never_connected"}}, "d"),
        ({"type": "all", "filter": {"labels": {"site": "one"}}}, "ac"),
        ({"type": "group", "id": "green", "filter": {"labels": {"site": "one", "tier": "test"}}}, "c"),
    ],
)
def test_a_dry_run_lists_the_agents_that_would_get_a_command(
    management: httpx.Client, fleet: Fleet, target: dict[str, Any], meant: str
) -> None:
    before = management.get("/orders").json()
    answer = management.post("/commands?dry_run=true", json=command("x") | {"target": target})
    assert answer.status_code == 200, answer.text
    [preview] = answer.json()["commands"]
    assert (preview["orders"], names(fleet, preview["recipients"])) == (len(meant), meant)
    assert management.get("/orders").json() == before


def test_each_of_several_agents_gets_one_order_with_its_groups(management: httpx.Client, fleet: Fleet) -> None:
    ids = [fleet[name].headers["X-Agent"] for name in "ab"]
    [request_id] = submit(management, command("x", action="ping") | {"target": {"type": "agent", "id": [*ids, ids[0]]}})
    orders = management.get("/orders", params={"request_id": request_id}).json()["items"]
    assert {order["agent_id"]: order["agent_groups"] for order in orders} == {
        ids[0]: ["blue"],
        ids[1]: ["blue", "green"],
    }
    for name in "ab":
        [order] = poll(fleet[name])
        assert order["target"] == {"type": "agent", "id": fleet[name].headers["X-Agent"]}
        report(fleet[name], [order])


def test_unknown_names_are_listed_for_every_command(management: httpx.Client, fleet: Fleet) -> None:
    good = fleet["a"].headers["X-Agent"]
    stranger = str(new_id())
    commands = [
        command("x") | {"target": {"type": "agent", "id": [good, stranger, "nonsense"]}},
        command(good),
        command("x") | {"target": {"type": "group", "id": ["blue", "nowhere"]}},
        command("postman", "server", action="fetch"),
    ]
    answer = management.post("/commands", json=commands)
    assert answer.status_code == 422
    detail = answer.json()["detail"]
    assert f"commands[0].target.id: there is no agent '{stranger}', 'nonsense'" in detail
    assert "commands[2].target.id: there is no group 'nowhere'" in detail
    assert "commands[3].target.id: there is no service 'postman'" in detail
    for target in ({"type": "group", "id": "empty"}, {"type": "all", "filter": {"os": "plan9"}}):
        assert management.post("/commands", json=command("x") | {"target": target}).status_code == 422


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"target": {"type": "all", "id": "x"}}, "commands[0].target.id"),
        ({"target": {"type": "all", "filter": {"colour": "red"}}}, "commands[0].target.filter"),
        ({"target": {"type": "server", "id": ["rbac", "b"]}}, "commands[0].target"),
        ({"priority": 101}, "commands[0].priority"),
        ({"start_at": "2026-01-01T00:00:00"}, "commands[0].start_at"),
        ({"start_at": "0001-01-01T00:00:00+12:00"}, "commands[0].start_at"),
        ({"action": {"name": "a", "version": "x" * 129}}, "commands[0].action.version"),
        ({"start_at": "2099-01-01T00:00:00Z"}, "commands[0].start_at"),
        ({"rollout": {"percent": 0}}, "commands[0].rollout.percent"),
        ({"rollout": {"speed": 1}}, "commands[0].rollout"),
        ({"user": "somebody"}, "commands[0].user"),
        ({"action": {"name": "cancel", "args": {}}}, "commands[0].action.name"),
        ({"action": {"name": "update", "args": {"index": "a", "offset": 1}}}, "commands[0].target.type"),
        ({"target": {"type": "server", "id": "rbac"}}, "commands[0].target.type"),
    ],
)
def test_a_fault_names_the_command_and_the_field(
    management: httpx.Client, fleet: Fleet, change: dict[str, Any], where: str
) -> None:
    answer = management.post("/commands", json=command(fleet["a"].headers["X-Agent"]) | change)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(where), answer.text


@pytest.mark.parametrize(
    ("action", "target", "args", "is_good"),
    [
        ("update", "vulnerability-detector", {"index": "a", "offset": "12"}, True),
        ("update", "vulnerability-detector", {"index": "a", "offset": 12}, False),
        ("update", "vulnerability-detector", {"index": "a"}, False),
        ("update", "vulnerability-detector", {"index": 5, "offset": "12"}, False),
        ("update", "vulnerability-detector", {"index": "a", "offset": "12", "more": 1}, False),
        ("update", "rbac", {"index": "a", "offset": "12"}, False),
        ("refresh", "rbac", {}, True),
        ("refresh", "rbac", {"index": ["a", "b"]}, True),
        ("refresh", "rbac", {"index": "a"}, True),
        ("refresh", "rbac", {"index": ""}, False),
        ("refresh", "rbac", {"index": [1]}, False),
        ("refresh", "rbac", {"other": []}, False),
    ],
)
def test_the_actions_of_services_have_schemas(
    management: httpx.Client, action: str, target: str, args: object, *, is_good: bool
) -> None:
    body = command(target, "server") | {"action": {"name": action, "args": args}}
    answer = management.post("/commands?dry_run=1", json=body)
    assert answer.status_code == (200 if is_good else 422), answer.text


def test_a_service_polls_its_own_orders_as_agents_do(server: Server, management: httpx.Client) -> None:
    rbac, other = server.user(management, "rbac", "service"), server.user(management, "mailer", "service")
    answers: list[list[dict[str, Any]]] = []
    held = Thread(target=lambda: answers.append(rbac.get("/services/rbac/commands?wait=60").json()["commands"]))
    held.start()
    time.sleep(0.3)
    refresh = command("rbac", "server") | {"action": {"name": "refresh", "args": {"index": ["roles"]}}}
    [request_id] = submit(management, refresh)
    held.join()
    [order] = answers[0]
    assert order["target"] == {"type": "server", "id": "rbac"}
    results = {"results": [{"order_id": order["order_id"], "result": {"code": 0}}]}
    assert other.get("/services/rbac/commands").status_code == 403
    assert other.post("/services/mailer/commands/results", json=results).json()["results"][0]["status"] == 404
    assert rbac.post("/services/rbac/commands/results", json=results).json()["results"][0]["result"] == "updated"
    progress = management.get(f"/commands/{request_id}").json()
    assert (progress["is_done"], progress["orders"]["success"]) == (True, 1)
    stored = management.get(f"/orders/{order['order_id']}").json()
    assert (stored["agent_id"], stored["target"]) == (None, {"type": "server", "id": "rbac"})


def test_a_registered_action_is_checked_by_its_schema(management: httpx.Client, fleet: Fleet) -> None:
    schema = {
        "type": "object",
        "properties": {"path": {"type": "string", "pattern": "^/"}, "depth": {"type": "integer", "maximum": 9}},
        "required": ["path"],
    }
    assert management.put("/actions/scan", json={"schema": schema}).status_code == 200
    agent_id = fleet["d"].headers["X-Agent"]

    def scan(args: object, target: Any = None) -> httpx.Response:
        body = command(agent_id) | {"action": {"name": "scan", "args": args}}
        return management.post("/commands?dry_run=1", json=body | (target or {}))

    assert scan({"path": "/etc"}).status_code == 200
    detail = scan({"path": "etc", "depth": 10}).json()["detail"]
    assert "commands[0].action.args.path" in detail
    assert "commands[0].action.args.depth" in detail
    assert scan({"path": "/etc"}, {"target": {"type": "server", "id": "rbac"}}).status_code == 422
    assert "scan" in [action["name"] for action in management.get("/actions").json()]
    for name, bad in (("restart", schema), ("x", {"type": "no"}), ("x", {"$ref": "https://localhost/schema"})):
        assert management.put(f"/actions/{name}", json={"schema": bad}).status_code in {409, 422}
    assert management.delete("/actions/scan").status_code == 204
    assert management.delete("/actions/scan").status_code == 404
    assert scan({"anything": 1}).status_code == 200


def test_unknown_actions_are_refused_where_the_setting_says_so(folder: Path, new_database: Callable[[], str]) -> None:
    with running_server(folder / "strict", new_database(), unknown_actions="refuse") as strict:
        operator = strict.management()
        agent_id = strict.enroll(operator, "strict")
        answer = operator.post("/commands", json=command(agent_id, action="apply_policy"))
        assert (answer.status_code, "apply_policy" in answer.json()["detail"]) == (422, True)
        assert operator.post("/commands", json=command(agent_id)).status_code == 201


def test_an_agent_that_comes_back_gets_all_of_its_orders_the_urgent_ones_first(
    server: Server, management: httpx.Client
) -> None:
    agent_id = server.enroll(management, "offline")
    commands = [command(agent_id, action=f"n{number}", priority=number % 2 * 10) for number in range(150)]
    submit(management, *commands)
    orders = poll(server.log_in(agent_id))
    expected = [f"n{number}" for parity in (1, 0) for number in range(150) if number % 2 == parity]
    assert [order["action"]["name"] for order in orders] == expected


def test_an_order_is_not_offered_before_its_start(server: Server, management: httpx.Client) -> None:
    agent_id = server.enroll(management, "later")
    client = server.log_in(agent_id)
    start = datetime.now(UTC) + timedelta(seconds=1.5)
    [request_id] = submit(management, command(agent_id, start_at=start.isoformat(), timeout=30))
    assert poll(client, 0) == []
    [order] = poll(client, 60)
    assert datetime.now(UTC) >= start
    stored = management.get(f"/orders/{order['order_id']}").json()
    expires = datetime.fromisoformat(stored["delivery_timestamp"])
    assert abs((expires - start).total_seconds() - 30) < 0.001
    assert stored["request_id"] == request_id


def test_a_paused_command_is_not_offered_until_it_is_resumed(server: Server, management: httpx.Client) -> None:
    agent_id = server.enroll(management, "paused")
    client = server.log_in(agent_id)
    [request_id] = submit(management, command(agent_id))
    url = f"/commands/{request_id}"
    assert management.post(f"{url}/pause").json() == {"phase": "paused", "orders": 1}
    assert management.post(f"{url}/pause").status_code == 409
    assert poll(client, 0.3) == []
    assert management.get(url).json()["orders"]["held"] == 1
    assert management.post(f"{url}/resume").json() == {"phase": "released", "orders": 1}
    assert management.post(f"{url}/resume").status_code == 409
    [order] = poll(client)
    report(client, [order])
    assert management.post(f"{url}/pause").status_code == 409


def test_a_rollout_goes_stage_by_stage_and_stops_when_too_many_fail(server: Server, management: httpx.Client) -> None:
    management.post("/groups", json={"name": "staged"})
    clients = [server.log_in(server.enroll(management, f"staged{number}", ("staged",))) for number in range(4)]
    rollout = {"percent": 50, "failure_ratio": 0.4}
    [request_id] = submit(management, command("staged", "group", rollout=rollout))
    url = f"/commands/{request_id}"
    wait_until(lambda: management.get(url).json()["orders"]["held"] == 2)
    got = [(client, poll(client, 0.2)) for client in clients]
    offered = [(client, orders) for client, orders in got if orders]
    assert len(offered) == 2
    for client, orders in offered:
        report(client, orders, code=1, message="disk full")
    wait_until(lambda: bool(management.get(url).json()["command"]["phase"] == "stopped"))
    progress = management.get(url).json()
    assert "2 of 2 orders failed" in progress["command"]["phase_reason"]
    assert [failure["message"] for failure in progress["failures"]] == ["disk full"] * 2
    assert management.post(f"{url}/resume").json()["phase"] == "rolling"
    wait_until(lambda: management.get(url).json()["orders"]["held"] == 0)
    for client in clients:
        if orders := poll(client, 0.5):
            report(client, orders)
    assert management.get(f"{url}/wait?timeout=60").json()["is_done"]


def test_failed_orders_are_repeated_and_no_others(server: Server, management: httpx.Client) -> None:
    management.post("/groups", json={"name": "again"})
    good, bad = (server.log_in(server.enroll(management, f"again{number}", ("again",))) for number in range(2))
    [request_id] = submit(management, command("again", "group", action="ping"))
    assert management.post(f"/commands/{request_id}/retry").status_code == 409
    report(good, poll(good))
    report(bad, poll(bad), code=1)
    header = {"Idempotency-Key": "retry"}
    answers = [management.post(f"/commands/{request_id}/retry", headers=header) for _ in range(2)]
    assert answers[0].status_code == 201, answers[0].text
    assert answers[0].json() == answers[1].json()
    [again] = answers[0].json()["commands"]
    assert again["orders"] == 1
    assert management.get(f"/commands/{again['request_id']}").json()["command"]["retry_of"] == request_id
    assert poll(good, 0) == []
    assert [order["action"]["name"] for order in poll(bad)] == ["ping"]


def test_a_wait_ends_with_the_last_result_and_a_stream_reports_every_step(
    server: Server, management: httpx.Client
) -> None:
    management.post("/groups", json={"name": "watched"})
    clients = [server.log_in(server.enroll(management, f"watched{number}", ("watched",))) for number in range(2)]
    [request_id] = submit(management, command("watched", "group"))
    url = f"/commands/{request_id}"
    assert management.get(f"{url}/wait?timeout=0.3").json()["is_done"] is False
    received: list[tuple[str, dict[str, int]]] = []

    def watch() -> None:
        with management.stream("GET", f"{url}/events") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            name = ""
            for line in answer.iter_lines():
                kind, _, value = line.partition(": ")
                name = value if kind == "event" else name
                if kind == "data":
                    received.append((name, json.loads(value)))

    watching = Thread(target=watch)
    watching.start()
    wait_until(lambda: bool(received))
    for client in clients:
        report(client, poll(client))
    answer = management.get(f"{url}/wait?timeout=60").json()
    assert (answer["is_done"], answer["orders"]["success"]) == (True, 2)
    watching.join()
    assert received[0] == ("progress", received[0][1] | {"pending": 2, "success": 0})
    assert received[-1] == ("done", received[-1][1] | {"pending": 0, "sent": 0, "success": 2})


def test_results_are_exported_completely_and_safely(server: Server, management: httpx.Client) -> None:
    agent_id = server.enroll(management, "exported")
    client = server.log_in(agent_id)
    [request_id] = submit(management, command(agent_id))
    report(client, poll(client), message='=cmd|"/c calc"!A1\nand, so on')
    url = f"/commands/{request_id}/results"
    [row] = csv.DictReader(io.StringIO(management.get(f"{url}?format=csv").text))
    assert (row["agent_id"], row["status"], row["data"]) == (str(agent_id), "success", '{"n":1}')
    assert row["message"] == '\'=cmd|"/c calc"!A1\nand, so on'
    [line] = management.get(url).text.splitlines()
    assert json.loads(line)["result"]["message"].startswith("=cmd")


@pytest.mark.usefixtures("fleet")
def test_orders_are_found_by_fields_of_their_command(management: httpx.Client) -> None:
    since = datetime.now(UTC).isoformat()
    [request_id] = submit(management, command("green", "group", action="found") | {"source": "Content manager"})
    for query in (
        {"action": "found"},
        {"source": "Content manager"},
        {"target": "green", "action": "found"},
        {"user": "admin", "since": since, "status": "pending"},
    ):
        found = management.get("/orders", params=query).json()["items"]
        assert {order["request_id"] for order in found} == {request_id}, query
        assert len(found) == 2
    assert management.get("/orders", params={"action": "found", "until": since}).json()["items"] == []
    assert [found["request_id"] for found in management.get("/commands?action=found").json()["items"]] == [request_id]
    [order, _] = management.get("/orders?action=found").json()["items"]
    assert order.keys() >= {
        "source", "user", "target", "action", "timeout", "status", "order_id", "request_id", "agent_id",
        "agent_groups", "result", "created_at", "delivery_timestamp",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/orders/ffffffff-ffff-ffff-ffff-ffffffffffff", 404),
        ("/orders/00000000-0000-0000-0000-000000000000", 404),
        ("/commands?since=1960-01-01T00:00:00Z", 200),
        ("/orders?since=0001-01-01T00:00:00&limit=1", 200),
        ("/orders?until=9999-12-31T23:59:59Z&limit=1", 200),
    ],
)
def test_a_time_out_of_range_is_not_a_server_error(management: httpx.Client, path: str, status: int) -> None:
    assert management.get(path).status_code == status


def test_a_wait_ends_when_its_client_leaves(server: Server, management: httpx.Client) -> None:
    [request_id] = submit(management, command(server.enroll(management, "watched by many")))
    impatient = httpx.Timeout(PATIENCE, read=0.05)  # only the answer has a short timeout, not the connection
    for _ in range(30):
        with pytest.raises(httpx.ReadTimeout):
            management.get(f"/commands/{request_id}/wait?timeout=60", timeout=impatient)
    management.post(f"/commands/{request_id}/cancel")
    assert management.get(f"/commands/{request_id}/wait?timeout=60").json()["is_done"]


@pytest.mark.parametrize(
    ("target", "groups", "fault"),
    [
        ({"type": "agent", "id": "a"}, ["green"], "the agent {a} is not a member of 'green'"),
        ({"type": "agent", "id": "d"}, ["blue", "green"], "the agent {d} is not a member of 'blue', 'green'"),
        ({"type": "agent", "id": ["a", "b"]}, ["blue", "green"], "the agent {a} is not a member of 'green'"),
        ({"type": "agent", "id": "a"}, ["blue", "nowhere"], "there is no group 'nowhere'"),
        ({"type": "group", "id": "green"}, ["green", "blue"], "the agent {c} is not a member of 'blue'"),
        ({"type": "group", "id": "blue", "filter": {"name": "a"}}, ["green"], "the agent {a} is not a member"),
        ({"type": "all"}, ["empty"], "is not a member of 'empty'"),
    ],
)
def test_a_set_group_with_groups_of_others_is_refused_and_nothing_is_created(  # noqa: PLR0913
    management: httpx.Client, fleet: Fleet, query: Query, target: dict[str, Any], groups: list[str], fault: str
) -> None:
    ids = {name: client.headers["X-Agent"] for name, client in fleet.items()}
    if target["type"] == "agent":
        names = target["id"] if isinstance(target["id"], list) else [target["id"]]
        target = target | {"id": [ids[name] for name in names]}
    good = command(ids["a"])
    bad = good | {"target": target, "action": {"name": "set-group", "args": {"groups": groups}}}
    before = query("SELECT count(*) FROM commands, orders")
    for path in ("/commands", "/commands?dry_run=true", "/_plugins/_command_manager/commands"):
        answer = management.post(path, json={"commands": [good, bad]})
        assert (answer.status_code, fault.format(**ids) in answer.json()["detail"]) == (422, True), answer.text
        assert "commands[1].action.args.groups: " in answer.json()["detail"]
    assert query("SELECT count(*) FROM commands, orders") == before


def test_a_set_group_with_own_groups_or_none_is_accepted_until_they_change(
    server: Server, management: httpx.Client
) -> None:
    for group in ("team", "squad"):
        management.post("/groups", json={"name": group})
    agent_id = server.enroll(management, "regrouped", ("team", "squad"))
    client = server.log_in(agent_id)
    for groups in ([], ["team"], ["squad", "team", "team"]):
        action = {"name": "set-group", "args": {"groups": groups}}
        [request_id] = submit(management, command(agent_id) | {"action": action})
        [order] = poll(client)
        assert order["action"]["args"] == {"groups": groups}
        report(client, [order], 1)
    management.delete(f"/groups/team/agents/{agent_id}")
    answer = management.post(f"/commands/{request_id}/retry")
    assert (answer.status_code, "is not a member of 'team'" in answer.json()["detail"]) == (422, True)


def test_the_version_of_an_action_chooses_its_schema(management: httpx.Client, fleet: Fleet) -> None:
    agent_id = fleet["d"].headers["X-Agent"]

    def register(version: str, member: str) -> int:
        schema = {"type": "object", "required": [member]}
        body = {"schema": schema} | ({"version": version} if version else {})
        return management.put("/actions/patch", json=body).status_code

    def fault(version: str, member: str) -> str:
        action = {"name": "patch", "args": {member: 1}, "version": version}
        answer = management.post("/commands?dry_run=1", json=command(agent_id) | {"action": action})
        return "" if answer.status_code == 200 else answer.json()["detail"]

    assert register("", "any") == 200
    assert (fault("", "any"), fault("7", "any")) == ("", "")
    assert (register("1", "old"), register("2", "new")) == (200, 200)
    assert (fault("1", "old"), fault("2", "new"), fault("", "any")) == ("", "", "")
    assert '"old" is a required property' in fault("1", "new")
    assert "commands[0].action.version: the action 'patch' has no version '7'; its versions are '1', '2'" in fault(
        "7", "any"
    )
    listed = [action["version"] for action in management.get("/actions").json() if action["name"] == "patch"]
    assert listed == ["", "1", "2"]
    assert [register(str(number), "x") for number in range(3, 22)] == [200] * 18 + [409]
    assert register("2", "newer") == 200
    assert management.delete("/actions/patch?version=1").status_code == 204
    assert management.delete("/actions/patch?version=1").status_code == 404
    assert "no version '1'" in fault("1", "old")
    assert fault("2", "newer") == ""
    assert management.delete("/actions/patch").status_code == 204
    assert fault("1", "anything") == ""


@pytest.mark.parametrize("args", ['{"groups":[' + "9" * 5000 + "]}", '{"groups":' + "[" * 300 + "]" * 300 + "}"])
def test_arguments_that_readers_cannot_parse_are_refused(management: httpx.Client, fleet: Fleet, args: str) -> None:
    set_group = command(fleet["a"].headers["X-Agent"]) | {"action": {"name": "set-group", "args": {}}}
    body = json.dumps(set_group).replace('"args": {}', f'"args": {args}')
    assert management.post("/commands", content=body).status_code in {400, 422}


@pytest.mark.parametrize(
    ("role", "may"),
    [
        ("reader", {"GET /commands": True, "POST /commands": False, "POST /agents": False, "GET /users": False}),
        ("operator", {"GET /commands": True, "POST /commands": True, "POST /agents": True, "GET /users": False}),
        ("service", {"GET /commands": True, "POST /commands": True, "POST /agents": False, "GET /users": False}),
    ],
)
def test_a_role_may_do_what_its_routes_declare(
    server: Server, management: httpx.Client, role: str, may: dict[str, bool]
) -> None:
    user = server.user(management, f"a-{role}", role)
    for call, is_allowed in may.items():
        method, path = call.split()
        assert (user.request(method, path).status_code != 403) is is_allowed, call
    assert management.delete(f"/users/a-{role}").status_code == 204
    wait_until(lambda: user.get("/schema/openapi.json").status_code == 401)


def test_every_route_of_the_management_api_declares_its_roles() -> None:
    undeclared = [
        str(handler) for handler in MANAGEMENT_HANDLERS if not (handler.opt.get("public") or handler.opt.get("roles"))
    ]
    assert undeclared == []
