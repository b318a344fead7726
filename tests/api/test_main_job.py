"""The main job, call by call, over real TLS."""

from collections.abc import Callable
from threading import Thread
from typing import Any

import httpx
import pytest
from support.batches import command, state, stateful, stateless
from support.events import stored_events
from support.server import KEY, Server

Query = Callable[..., list[Any]]


@pytest.mark.parametrize("path", ["/", "/api/v1/", "/api/v1"])
def test_health_is_an_empty_200(server: Server, path: str) -> None:
    answer = server.client(server.agent_url).get(path)
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize("path", ["/api/v10", "/api/v1login", "/api/v1/api/v1", "/api"])
def test_a_path_that_only_resembles_the_prefix_is_not_found(server: Server, path: str) -> None:
    assert server.client(server.agent_url).get(path).status_code == 404


@pytest.mark.parametrize("path", ["/login", "/api/v1/login", "/authentication", "/api/v1/authentication"])
def test_an_enrolled_agent_logs_in_on_every_path(server: Server, management: httpx.Client, path: str) -> None:
    agent_id = server.enroll(management, f"login{path}")
    answer = server.client(server.agent_url).post(path, json={"uuid": str(agent_id), "key": KEY})
    assert answer.status_code == 200
    assert answer.json()["token"].count(".") == 2


def test_stateless_events_are_stored_byte_for_byte_in_order(
    server: Server, management: httpx.Client, query: Query
) -> None:
    agent_id = server.enroll(management, "stateless")
    events = [b'{"n": 1,  "text":"\\u0000 \xc3\xa9"}', b'{"n":1e400}', b'{"n":3}']
    answer = server.log_in(agent_id).post("/events/stateless", content=stateless(agent_id, *events))
    assert (answer.status_code, answer.content) == (204, b"")
    stored = [(event.module, event.collector, bytes(event.event)) for event in stored_events(query, agent_id)]
    assert stored == [("logcollector", "file", event) for event in events]


def test_stateful_items_are_answered_one_by_one_in_order(server: Server, management: httpx.Client) -> None:
    agent_id = server.enroll(management, "stateful")
    client = server.log_in(agent_id)
    body = stateful(
        agent_id,
        state("a", "create", {"x": 1}),
        state("a", "create", {"x": 2}),
        state("a", "update", {"y": {"z": 3}}),
        state("b", "update", {"new": True}),
        state("a", "update", {"x": 1}),
        state("nothing", "delete"),
        state("b", "delete"),
    )
    results = client.post("/events/stateful", content=body).json()["results"]
    statuses = [(result["index"], result["id"], result["status"]) for result in results]
    assert statuses == [(0, "a", 201), (1, "a", 409), (2, "a", 200), (3, "b", 201), (4, "a", 200), (5, "nothing", 404),
                    (6, "b", 200)]  # fmt: skip
    assert [result["result"] for result in results][4] == "noop"
    states = management.get("/states", params={"agent_id": str(agent_id)}).json()["items"]
    assert [(item["id"], item["data"]) for item in states] == [("a", {"x": 1, "y": {"z": 3}})]


def test_a_command_to_an_agent_is_polled_and_reported(server: Server, management: httpx.Client) -> None:
    agent_id = server.enroll(management, "order")
    client = server.log_in(agent_id)
    ping = command(agent_id, action="ping", timeout=60)
    ping["action"]["args"] = {"deep": [True, {"a": None}]}
    submitted = management.post("/commands", json=ping)
    assert submitted.status_code == 201, submitted.text
    [order] = client.get("/commands").json()["commands"]
    assert order["order_id"] == order["document_id"] == submitted.json()["commands"][0]["order_ids"][0]
    assert order["action"] == ping["action"]
    result = {"order_id": order["order_id"], "result": {"code": 0, "message": "pong", "data": {"n": 1}}}
    answer = client.post("/commands/results", json={"results": [result, result]})
    outcome = answer.json()["results"]
    assert [item["result"] for item in outcome] == ["updated", "noop"]
    stored = management.get(f"/orders/{order['order_id']}").json()
    assert (stored["status"], stored["result"]) == ("success", {"code": 0, "message": "pong", "data": {"n": 1}})


REPORTS: dict[bytes, int] = {
    b'{"order_id":"%s","result":{"code":0,"message":null}}': 200,
    b'{"order_id":"%s","result":{"code":"1","message":"no"}}': 200,
    b'{"order_id":"%s","result":{"code":0,"message":"b\xfcro"}}': 400,
    b'{"order_id":"%s","result":{"code":0,"data":"b\xfcro"}}': 400,
    b'{"order_id":"%s","result":{"message":"no code"}}': 400,
    b'{"order_id":"%s","result":null}': 400,
    b'{"order_id":"%s","result":{"code":0,"message":"a\\u0000b","data":["\\u0000"]}}': 200,
}
UNREADABLE = [b"5", b"{}", b'{"order_id":5,"result":{"code":0}}']


@pytest.mark.parametrize("path", ["/commands/results", "/commands/results?by=litestar"])
def test_each_report_has_its_own_outcome(server: Server, management: httpx.Client, path: str) -> None:
    agent_id = server.enroll(management, f"reports{len(path)}")
    client = server.log_in(agent_id)
    management.post("/commands", json=[command(agent_id, action="restart")] * len(REPORTS))
    ids = [order["order_id"] for order in client.get("/commands").json()["commands"]]
    reports = [report % order_id.encode() for report, order_id in zip(REPORTS, ids, strict=True)]
    body = b'{"results":[%b]}' % b",".join([*UNREADABLE, *reports])
    answer = client.post(path, content=body)
    assert answer.status_code == 200, answer.text
    outcomes = answer.json()["results"]
    assert [outcome["index"] for outcome in outcomes] == list(range(len(UNREADABLE) + len(REPORTS)))
    assert [outcome["status"] for outcome in outcomes] == [400] * len(UNREADABLE) + list(REPORTS.values())
    assert [outcome["order_id"] for outcome in outcomes] == [""] * len(UNREADABLE) + ids
    assert outcomes[-3]["result"] == "results[7]: Object missing required field `code` - at `$.result`"
    shown = [management.get(f"/orders/{order_id}").json() for order_id in ids]
    assert [order["status"] for order in shown] == ["success", "failure", *["sent"] * 4, "success"]
    assert shown[-1]["result"] == {"code": 0, "message": "a\N{REPLACEMENT CHARACTER}b", "data": ["\0"]}


def test_a_real_agents_report_as_a_state_ends_the_order(server: Server, management: httpx.Client) -> None:
    agent_id = server.enroll(management, "real")
    client = server.log_in(agent_id)
    management.post("/commands", json=command(agent_id))
    [order] = client.get("/api/v1/commands").json()["commands"]
    report = {"command": {"result": {"code": "1", "message": "no"}}}
    item = state(order["document_id"], "update", report, module="command", collector="")
    [result] = client.post("/events/stateful", content=stateful(agent_id, item)).json()["results"]
    assert (result["result"], result["status"]) == ("updated", 200)
    stored = management.get(f"/orders/{order['order_id']}").json()
    assert (stored["status"], stored["result"]["message"]) == ("failure", "no")


def test_a_held_poll_is_answered_when_a_group_command_arrives(server: Server, management: httpx.Client) -> None:
    management.post("/groups", json={"name": "web"})
    agents = [server.enroll(management, f"web{number}", ("web",)) for number in range(3)]
    clients = [server.log_in(agent) for agent in agents]
    answers: list[Any] = []

    def poll(client: httpx.Client) -> None:
        answers.append(client.get("/commands?wait=20").json())

    polls = [Thread(target=poll, args=(client,)) for client in clients]
    for thread in polls:
        thread.start()
    submitted = management.post("/commands", json={"commands": [command("web", "group")]}).json()["commands"]
    for thread in polls:
        thread.join()
    assert submitted[0]["orders"] == 3
    orders = [order for answer in answers for order in answer["commands"]]
    assert len(orders) == 3
    assert {order["request_id"] for order in orders} == {submitted[0]["request_id"]}


def test_a_poll_without_orders_is_answered_with_an_empty_list(server: Server, management: httpx.Client) -> None:
    client = server.log_in(server.enroll(management, "idle"))
    answer = client.get("/poll_commands", params={"wait": "0.2"})
    assert (answer.status_code, answer.json()) == (200, {"commands": []})


def test_a_cancelled_command_is_not_offered_and_a_late_result_changes_nothing(
    server: Server, management: httpx.Client
) -> None:
    management.post("/groups", json={"name": "cancelled"})
    first, second = (server.enroll(management, f"cancelled{number}", ("cancelled",)) for number in range(2))
    client = server.log_in(first)
    submitted = management.post("/commands", json=command("cancelled", "group")).json()["commands"][0]
    [order] = client.get("/commands?wait=5").json()["commands"]
    url = f"/commands/{submitted['request_id']}"
    assert management.post(f"{url}/cancel").json() == {"cancelled": 2, "told": 1}
    assert management.post(f"{url}/cancel").json() == {"cancelled": 0, "told": 0}
    progress = management.get(url).json()
    assert (progress["orders"]["cancelled"], progress["is_done"], progress["command"]["phase"]) == (
        2,
        True,
        "cancelled",
    )
    assert server.log_in(second).get("/commands?wait=0").json() == {"commands": []}
    report = {"results": [{"order_id": order["order_id"], "result": {"code": 0}}]}
    assert client.post("/commands/results", json=report).json()["results"][0]["result"] == "noop"
    stored = management.get(f"/orders/{order['order_id']}").json()
    assert (stored["status"], stored["result"]["message"]) == ("cancelled", "cancelled after delivery by admin")
    # The agent that holds the order gets a `cancel` order at its next poll.
    [cancel] = client.get("/commands?wait=5").json()["commands"]
    assert cancel["action"] == {"name": "cancel", "args": {"request_id": submitted["request_id"]}, "version": ""}


def test_one_order_is_cancelled_once(server: Server, management: httpx.Client) -> None:
    agent_id = server.enroll(management, "cancel one")
    submitted = management.post("/commands", json=command(agent_id)).json()["commands"][0]
    url = f"/orders/{submitted['order_ids'][0]}/cancel"
    assert management.post(url).json()["status"] == "cancelled"
    again = management.post(url)
    assert (again.status_code, "cancelled" in again.json()["message"]) == (409, True)
    assert management.post(f"/orders/{agent_id}/cancel").status_code == 404
    assert management.post(f"/commands/{agent_id}/cancel").status_code == 404


def test_submitting_again_under_one_key_submits_once(server: Server, management: httpx.Client) -> None:
    agent_id = server.enroll(management, "idempotent")
    body, header = command(agent_id), {"Idempotency-Key": "once"}
    answers: list[Any] = []

    def submit() -> None:
        answers.append(management.post("/commands", json=body, headers=header).json())

    threads = [Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({answer["commands"][0]["request_id"] for answer in answers}) == 1
    orders = management.get("/orders", params={"agent_id": str(agent_id)}).json()["items"]
    assert len(orders) == 1
    other = management.post("/commands", json=body | {"timeout": 7}, headers=header)
    assert (other.status_code, "another body" in other.json()["message"]) == (422, True)
    assert management.post("/commands", json=body, headers={"Idempotency-Key": "x" * 256}).status_code == 422


def test_a_submission_that_failed_leaves_its_key_free(server: Server, management: httpx.Client) -> None:
    agent_id, header = server.enroll(management, "key free"), {"Idempotency-Key": "free"}
    assert management.post("/commands", json=command("nobody", "group"), headers=header).status_code == 422
    assert management.post("/commands", json=command(agent_id), headers=header).status_code == 201


def test_arguments_that_an_action_does_not_take_are_dropped(server: Server, management: httpx.Client) -> None:
    for group in ("dropped-a", "dropped-b"):
        management.post("/groups", json={"name": group})
    agent_id = server.enroll(management, "dropped", ("dropped-a", "dropped-b"))
    commands = [
        command(agent_id) | {"action": {"name": "fetch-config", "args": {"stray": 1}}},
        command(agent_id) | {"action": {"args": {"groups": ["dropped-a", "dropped-b"]}, "name": "set-group"}},
    ]
    assert management.post("/commands", json=commands).status_code == 201
    orders = server.log_in(agent_id).get("/commands?wait=5").json()["commands"]
    assert [order["action"]["args"] for order in orders] == [{}, {"groups": ["dropped-a", "dropped-b"]}]
