"""An agent gets only the files of its groups, one order announces a change, and drifting agents can be listed."""

import hashlib
import time
from typing import Any

import httpx
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.server import Server
from support.waiting import PATIENCE

from comms_api.files.ranges import Range, read_range


def put(management: httpx.Client, group: str, name: str, content: str) -> httpx.Response:
    return management.put(f"/groups/{group}/files/{name}", content=content)


def poll(client: httpx.Client, wait: float = PATIENCE) -> list[dict[str, Any]]:
    """Return the actions of an agent's orders, and report them as done."""
    orders: list[dict[str, Any]] = client.get(f"/commands?wait={wait:g}").json()["commands"]
    results = [{"order_id": order["order_id"], "result": {"code": 0}} for order in orders]
    client.post("/commands/results", json={"results": results})
    return [order["action"] for order in orders]


def test_an_agent_gets_only_the_files_of_its_groups(server: Server, management: httpx.Client) -> None:
    for group in ("mine", "theirs"):
        management.post("/groups", json={"name": group})
        assert put(management, group, f"{group}.yml", f"name: {group}\n").status_code == 200
    client = server.log_in(server.enroll(management, "reader", ("mine",)))
    answer = client.get("/api/v1/files?file_name=mine.yml")
    assert (answer.status_code, answer.text) == (200, "name: mine\n")
    assert client.get("/files?file_name=theirs.yml").status_code == 404
    assert client.get("/files?file_name=theirs.yml").json()["code"] == 2705
    assert client.get("/files?file_name=../mine.yml").status_code == 404
    assert (client.get("/files").status_code, client.get("/files").json()["code"]) == (400, 2704)


def test_the_merged_file_of_a_group_without_files_is_an_empty_map(server: Server, management: httpx.Client) -> None:
    for group in ("bare", "foreign"):
        management.post("/groups", json={"name": group})
    client = server.log_in(server.enroll(management, "bare", ("bare",)))
    answer = client.get("/api/v1/files?file_name=bare.yml")
    assert (answer.status_code, answer.content) == (200, b"{}")
    assert client.get("/files?file_name=bare.yml", headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304
    for name in ("foreign.yml", "bare", "bare.yaml", "bare.yml.yml", "nobody.yml"):
        assert client.get("/files", params={"file_name": name}).status_code == 404, name
    put(management, "bare", "bare.yml", "a: 1")
    assert client.get("/files?file_name=bare.yml").text == "a: 1"


def test_a_file_is_fetched_again_only_when_it_has_changed_and_in_parts(
    server: Server, management: httpx.Client
) -> None:
    management.post("/groups", json={"name": "parts"})
    put(management, "parts", "data.txt", "0123456789")
    client = server.log_in(server.enroll(management, "parts", ("parts",)))
    url = "/files?file_name=data.txt"
    tag = client.get(url).headers["ETag"]
    assert tag == f'"{hashlib.sha256(b"0123456789").hexdigest()}"'
    unchanged = client.get(url, headers={"If-None-Match": f'W/"x", {tag}'})
    assert (unchanged.status_code, unchanged.content, unchanged.headers["ETag"]) == (304, b"", tag)
    part = client.get(url, headers={"Range": "bytes=2-4", "If-Range": tag})
    assert (part.status_code, part.text, part.headers["Content-Range"]) == (206, "234", "bytes 2-4/10")
    assert client.get(url, headers={"Range": "bytes=2-4", "If-Range": '"old"'}).status_code == 200
    assert client.get(url, headers={"Range": "bytes=10-"}).status_code == 416
    put(management, "parts", "data.txt", "changed")
    assert client.get(url, headers={"If-None-Match": tag}).text == "changed"


@given(first=st.integers(0, 20), last=st.integers(0, 20), size=st.integers(0, 15))
def test_a_part_is_within_its_file(first: int, last: int, size: int) -> None:
    for header in (f"bytes={first}-{last}", f"bytes={first}-", f"bytes=-{last}"):
        part = read_range(header, size)
        if isinstance(part, Range):
            assert 0 <= part.first <= part.last < size
    assert read_range(None, size) is read_range("lines=1-2", size) is read_range("bytes=0-1,3-4", size) is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bad.yml", "- a"),
        (".hidden", "x"),
        ("merged.yml", "a: 1"),
    ],
)
def test_an_invalid_configuration_is_refused_and_not_announced(
    management: httpx.Client, name: str, content: str
) -> None:
    management.post("/groups", json={"name": "strict"})
    assert put(management, "strict", name, content).status_code == 422
    assert management.get("/groups/strict/files").json() == []
    assert put(management, "nowhere", "a.txt", "x").status_code == 404
    assert put(management, "strict", "large.txt", "x" * (4 * 2**20 + 1)).status_code == 413


def test_versions_are_kept_and_the_same_content_creates_none(management: httpx.Client) -> None:
    management.post("/groups", json={"name": "versions"})
    for content in ("one", "two", "two", "three"):
        put(management, "versions", "a.txt", content)
    url = "/groups/versions/files/a.txt"
    shown = [(file["version"], file["is_current"]) for file in management.get(f"{url}/versions").json()]
    assert shown == [(3, True), (2, False), (1, False)]
    assert management.get(f"{url}?version=2").text == "two"
    assert management.delete(url).status_code == 204
    assert (management.get(url).status_code, management.delete(url).status_code) == (404, 404)
    put(management, "versions", "a.txt", "three")
    assert management.get(f"{url}/versions").json()[0]["version"] == 4
    for number in range(30):
        put(management, "versions", "a.txt", str(number))
    assert len(management.get(f"{url}/versions").json()) == 20


def test_ten_changes_are_announced_by_one_order_and_a_move_by_one(server: Server, management: httpx.Client) -> None:
    for group in ("pair", "pair-too"):
        management.post("/groups", json={"name": group})
    agent_id = server.enroll(management, "pair", ("pair",))
    client = server.log_in(agent_id)
    for number in range(10):
        put(management, "pair", "pair.yml", f"n: {number}")
    assert poll(client) == [{"name": "fetch-config", "args": {}, "version": ""}]
    management.put(f"/groups/pair-too/agents/{agent_id}")
    put(management, "pair-too", "x.txt", "x")
    assert poll(client) == [{"name": "set-group", "args": {"groups": ["pair", "pair-too"]}, "version": ""}]
    management.delete("/groups/pair")
    assert poll(client) == [{"name": "set-group", "args": {"groups": ["pair-too"]}, "version": ""}]
    assert poll(client, 1.5) == []


def test_changes_while_an_agent_is_away_are_announced_by_one_order(server: Server, management: httpx.Client) -> None:
    management.post("/groups", json={"name": "away"})
    agent_id = server.enroll(management, "away", ("away",))
    for number in range(3):
        put(management, "away", "a.txt", str(number))
        time.sleep(2.5)
    assert poll(server.log_in(agent_id)) == [{"name": "fetch-config", "args": {}, "version": ""}]


def test_agents_that_are_out_of_sync_can_be_listed(server: Server, management: httpx.Client) -> None:
    management.post("/groups", json={"name": "drift"})
    put(management, "drift", "drift.yml", "a: 1")
    put(management, "drift", "b.txt", "b")
    agent_id = server.enroll(management, "drifting", ("drift",))
    client = server.log_in(agent_id)

    def drifting(*, in_sync: bool) -> list[str]:
        query = {"group": "drift", "in_sync": str(in_sync).lower()}
        return [agent["name"] for agent in management.get("/agents", params=query).json()["items"]]

    assert (drifting(in_sync=False), drifting(in_sync=True)) == (["drifting"], [])
    lines = "".join(
        f"drift/{name} {hashlib.sha256(content).hexdigest()}\n"
        for name, content in (("b.txt", b"b"), ("drift.yml", b"a: 1"))
    )
    mine = hashlib.sha256(lines.encode()).hexdigest()
    assert client.put("/configuration", json={"sha256": mine}).status_code == 204
    configuration = management.get(f"/agents/{agent_id}/configuration").json()
    assert (configuration["wanted"], configuration["in_sync"]) == (mine, True)
    assert (drifting(in_sync=False), drifting(in_sync=True)) == ([], ["drifting"])
    put(management, "drift", "b.txt", "c")
    assert drifting(in_sync=False) == ["drifting"]
    assert client.put("/configuration", json={"sha256": "no"}).status_code == 400


def test_an_agent_without_group_files_is_in_sync(server: Server, management: httpx.Client) -> None:
    management.post("/groups", json={"name": "no"})
    agent_id = server.enroll(management, "fileless", ("no",))

    def is_in_sync() -> bool:
        listed = [
            [agent["id"] for agent in management.get(f"/agents?group=no&in_sync={value}").json()["items"]]
            for value in ("true", "false")
        ]
        shown: bool = management.get(f"/agents/{agent_id}/configuration").json()["in_sync"]
        assert listed == ([[str(agent_id)], []] if shown else [[], [str(agent_id)]])
        return shown

    assert is_in_sync()
    put(management, "no", "no.yml", "a: 1")
    assert not is_in_sync()
    management.delete("/groups/no/files/no.yml")
    assert is_in_sync()


def test_the_group_of_highest_precedence_wins(server: Server, management: httpx.Client) -> None:
    for group, precedence in (("base", 5), ("alpha", 10), ("beta", 10), ("low", 0)):
        management.post("/groups", json={"name": group, "precedence": precedence})
        put(
            management,
            group,
            f"{group}.yml",
            f"who: {group}\nshared:\n  {group}: yes\n  last: {group}\nlist: [{group}]\n",
        )
        put(management, group, "same.txt", group)
    client = server.log_in(server.enroll(management, "merged", ("alpha", "base", "beta", "low")))
    merged = yaml.safe_load(client.get("/files?file_name=merged.yml").content)
    assert (merged["who"], merged["list"], merged["shared"]["last"]) == ("beta", ["beta"], "beta")
    assert merged["shared"].keys() == {"base", "alpha", "beta", "low", "last"}
    assert client.get("/files?file_name=same.txt").text == "beta"
    assert management.patch("/groups/low", json={"precedence": 99}).status_code == 204
    assert client.get("/files?file_name=same.txt").text == "low"


def test_set_group_names_the_groups_in_merge_order(server: Server, management: httpx.Client) -> None:
    for group, precedence in (("order-a", 50), ("order-b", 0), ("order-c", 0)):
        management.post("/groups", json={"name": group, "precedence": precedence})
        put(management, group, f"{group}.yml", f"who: {group}\n{group[-1]}: 1\n")
    agent_id = server.enroll(management, "ordered")
    client = server.log_in(agent_id)
    for group in ("order-a", "order-b", "order-c"):
        management.put(f"/groups/{group}/agents/{agent_id}")
    assert_merged_in_order(client, ["order-b", "order-c", "order-a"])
    assert management.get(f"/agents/{agent_id}").json()["groups"] == ["order-b", "order-c", "order-a"]
    # A change of precedence alone changes the order.
    assert management.patch("/groups/order-b", json={"precedence": 99}).status_code == 204
    assert_merged_in_order(client, ["order-c", "order-a", "order-b"])


def assert_merged_in_order(client: httpx.Client, groups: list[str]) -> None:
    """Take a `set-group` with these groups; merging their files in its order must give `merged.yml`."""
    [action] = poll(client)
    assert action == {"name": "set-group", "args": {"groups": groups}, "version": ""}
    merged: dict[str, Any] = {}
    for group in groups:
        merged |= yaml.safe_load(client.get(f"/files?file_name={group}.yml").content)
    assert merged == yaml.safe_load(client.get("/files?file_name=merged.yml").content)


def test_a_change_of_precedence_does_not_disturb_agents_of_one_group(server: Server, management: httpx.Client) -> None:
    management.post("/groups", json={"name": "alone"})
    client = server.log_in(server.enroll(management, "alone", ("alone",)))
    assert management.patch("/groups/alone", json={"precedence": 7}).status_code == 204
    assert poll(client, 3) == []
