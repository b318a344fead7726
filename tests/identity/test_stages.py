"""A version of a file reaches a part of its group first, then all agents or nobody."""

import math
from collections.abc import Callable
from typing import Any
from uuid import UUID

import httpx
import pytest
from support.server import Server
from support.waiting import wait_until

Query = Callable[..., list[Any]]


class StagedGroup:
    """A group of agents whose file has a current version, `a: 1`."""

    def __init__(self, server: Server, management: httpx.Client, name: str, agents: int) -> None:
        self.name = name
        self.path = f"/groups/{name}/files/{name}.yml"
        self._server, self._management = server, management
        management.post("/groups", json={"name": name}).raise_for_status()
        self.put("a: 1").raise_for_status()
        self.clients: dict[UUID, httpx.Client] = {}
        for _ in range(agents):
            self.join()
        # Agents are in sync before a version is staged.
        for agent_id in self.clients:
            self.apply(agent_id)

    def join(self) -> UUID:
        agent_id = self._server.enroll(self._management, f"{self.name}-{len(self.clients)}", (self.name,))
        self.clients[agent_id] = self._server.log_in(agent_id)
        return agent_id

    def put(self, content: str, **query: int) -> httpx.Response:
        return self._management.put(self.path, content=content, params=query)

    def read(self, agent_id: UUID) -> str:
        return self.clients[agent_id].get(f"/files?file_name={self.name}.yml").text

    def with_content(self, content: str) -> set[UUID]:
        """The agents that get this content, directly and merged."""
        found = {agent_id for agent_id in self.clients if self.read(agent_id) == content}
        for agent_id, client in self.clients.items():
            assert (content in client.get("/files?file_name=merged.yml").text) == (agent_id in found)
        return found

    def apply(self, agent_id: UUID) -> None:
        """Report the files that the agent should run."""
        expected = self._management.get(f"/agents/{agent_id}/configuration").json()["wanted"]
        self.clients[agent_id].put("/configuration", json={"sha256": expected}).raise_for_status()

    def stage(self) -> dict[str, Any]:
        shown = self._management.get(f"{self.path}/stage")
        assert shown.status_code == 200, shown.text
        found: dict[str, Any] = shown.json()
        return found

    def widen(self, percent: int) -> httpx.Response:
        return self._management.patch(f"{self.path}/stage", json={"percent": percent})

    def promote(self) -> httpx.Response:
        return self._management.post(f"{self.path}/stage/promote")

    def abort(self) -> httpx.Response:
        return self._management.delete(f"{self.path}/stage")

    def statuses(self) -> dict[UUID, str]:
        items = self._management.get(f"/groups/{self.name}/configuration/agents").json()["items"]
        return {UUID(item["agent_id"]): item["status"] for item in items}

    def listed(self) -> set[UUID]:
        path = f"/groups/{self.name}/configuration/agents?staged={self.name}.yml"
        return {UUID(item["agent_id"]) for item in self._management.get(path).json()["items"]}


def announced(client: httpx.Client) -> dict[str, Any]:
    """Wait for an agent's next order, report it as done, and return its action."""
    orders: list[dict[str, Any]] = []
    wait_until(lambda: orders.extend(client.get("/commands?wait=10").json()["commands"]) or orders)
    [order] = orders
    client.post("/commands/results", json={"results": [{"order_id": order["order_id"], "result": {"code": 0}}]})
    action: dict[str, Any] = order["action"]
    return action


def has_change(query: Query, agent_id: UUID) -> bool:
    """Whether a change of the agent waits for its announcement, or an order announces one."""
    return bool(
        query(
            "SELECT FROM configuration_changes WHERE agent_id = $1 UNION ALL SELECT FROM orders WHERE agent_id = $1",
            agent_id,
        )
    )


def test_chosen_agents_get_the_staged_version_and_the_others_the_current_one(
    server: Server, management: httpx.Client, query: Query
) -> None:
    group = StagedGroup(server, management, "staged", 5)
    staged = group.put("a: 2", percent=30).json()
    assert (staged["version"], staged["is_current"], staged["staged_percent"]) == (2, False, 30)
    chosen = group.with_content("a: 2")
    assert len(chosen) == math.ceil(5 * 0.3)
    assert chosen == group.listed()
    assert group.with_content("a: 1") == set(group.clients) - chosen
    assert {agent_id for agent_id, status in group.statuses().items() if status == "pending"} == chosen
    assert {agent_id for agent_id in group.clients if has_change(query, agent_id)} == chosen
    for agent_id in chosen:
        assert announced(group.clients[agent_id])["name"] == "fetch-config"
    stage = group.stage()
    assert (stage["version"], stage["percent"], stage["agents"]) == (2, 30, 2)
    assert (stage["in_sync"], stage["pending"], stage["failed"]) == (0, 2, 0)
    for agent_id in chosen:
        group.apply(agent_id)
    assert group.stage()["in_sync"] == 2
    counts = management.get("/groups/staged/configuration").json()
    assert (counts["in_sync"], counts["pending"]) == (5, 0)
    assert management.get(group.path).text == "a: 1"
    listed = [(file["version"], file["is_current"]) for file in management.get("/groups/staged/files").json()]
    assert listed == [(1, True), (2, False)]


def test_a_larger_percentage_keeps_those_already_chosen_and_all_get_it_when_it_is_promoted(
    server: Server, management: httpx.Client
) -> None:
    group = StagedGroup(server, management, "growing", 6)
    group.put("a: 2", percent=1)
    chosen = group.listed()
    for percent, number in ((20, 2), (50, 3), (50, 3), (84, 6)):
        assert group.widen(percent).json()["agents"] == number
        assert chosen <= group.listed()
        chosen = group.listed()
    assert group.widen(83).status_code == 422
    promoted = group.promote().json()
    assert (promoted["version"], promoted["is_current"], promoted["staged_percent"]) == (2, True, None)
    late = group.join()
    assert group.with_content("a: 2") == {*group.clients, late}
    assert management.get(f"{group.path}/stage").status_code == 404


def test_promotion_changes_nothing_for_the_agents_that_run_the_version_already(
    server: Server, management: httpx.Client
) -> None:
    group = StagedGroup(server, management, "steady", 2)
    group.put("a: 2", percent=50)
    [chosen] = group.listed()
    [other] = set(group.clients) - {chosen}
    announced(group.clients[chosen])
    group.apply(chosen)
    group.promote()
    assert announced(group.clients[other])["name"] == "fetch-config"
    assert group.statuses() == {chosen: "in_sync", other: "pending"}
    # The changes of one publication are announced together.
    assert group.clients[chosen].get("/commands?wait=0").json()["commands"] == []


def test_an_aborted_stage_gives_the_current_version_back(server: Server, management: httpx.Client) -> None:
    group = StagedGroup(server, management, "aborted", 3)
    group.put("a: 2", percent=50)
    chosen = group.listed()
    for agent_id in chosen:
        announced(group.clients[agent_id])
        group.apply(agent_id)
    assert group.abort().status_code == 204
    assert group.with_content("a: 1") == set(group.clients)
    assert {agent_id for agent_id, status in group.statuses().items() if status == "pending"} == chosen
    for agent_id in chosen:
        assert announced(group.clients[agent_id])["name"] == "fetch-config"
    assert [group.abort().status_code, group.promote().status_code, group.widen(50).status_code] == [404, 404, 404]
    versions = [(file["version"], file["is_current"]) for file in management.get(f"{group.path}/versions").json()]
    assert versions == [(2, False), (1, True)]


def test_an_agent_that_joins_gets_the_current_version_until_more_are_chosen(
    server: Server, management: httpx.Client
) -> None:
    group = StagedGroup(server, management, "joined", 2)
    group.put("a: 2", percent=100)
    late = group.join()
    assert group.read(late) == "a: 1"
    assert group.widen(100).json()["agents"] == 3
    assert group.read(late) == "a: 2"


def test_an_agent_that_leaves_no_longer_counts(server: Server, management: httpx.Client) -> None:
    group = StagedGroup(server, management, "left", 2)
    group.put("a: 2", percent=100)
    leaving, deleted = group.clients
    management.delete(f"/groups/left/agents/{leaving}").raise_for_status()
    management.delete(f"/agents/{deleted}").raise_for_status()
    assert group.stage()["agents"] == 0
    assert group.promote().json()["is_current"]


def test_the_first_version_of_a_file_can_be_staged(server: Server, management: httpx.Client) -> None:
    management.post("/groups", json={"name": "begun"})
    ids = [server.enroll(management, f"begun-{number}", ("begun",)) for number in range(2)]
    path = "/groups/begun/files/new.txt"
    assert management.put(path, content=b"new", params={"percent": 50}).status_code == 200
    found = sorted(server.log_in(agent_id).get("/files?file_name=new.txt").status_code for agent_id in ids)
    assert found == [200, 404]
    counts = management.get("/groups/begun/configuration").json()
    assert (counts["in_sync"], counts["pending"]) == (1, 1)  # the other has no files, which is in sync
    assert management.get(path).status_code == 404
    assert management.get(f"{path}?version=1").text == "new"
    assert management.delete(f"{path}/stage").status_code == 204
    assert management.get("/groups/begun/files").json() == []


def test_a_file_with_a_staged_version_takes_no_other_change(server: Server, management: httpx.Client) -> None:
    group = StagedGroup(server, management, "guarded-stage", 1)
    group.put("a: 2")
    staged = group.put("a: 3", percent=10)
    assert group.put("a: 3", percent=10).json() == staged.json()  # a repeated request
    for refused in (
        group.put("a: 4"),
        group.put("a: 4", percent=50),
        group.put("a: 3", percent=50),
        management.post(f"{group.path}/rollback", json={"version": 1}),
        management.delete(group.path),
    ):
        assert refused.status_code == 409
        assert "Version 3" in refused.json()["detail"]
    group.abort()
    assert management.post(f"{group.path}/rollback", json={"version": 1, "percent": 50}).json()["staged_percent"] == 50
    assert group.promote().json()["version"] == 4
    assert management.get(group.path).text == "a: 1"
    assert group.put("a: 1", percent=50).json()["staged_percent"] is None  # it is current already


@pytest.mark.parametrize("percent", [0, 101, -1])
def test_a_percentage_is_from_1_to_100(server: Server, management: httpx.Client, percent: int) -> None:
    group = StagedGroup(server, management, f"bounded-{percent}", 0)
    assert group.put("a: 2", percent=percent).status_code == 400
    group.put("a: 2", percent=50)
    assert group.widen(percent).status_code == 400
    assert management.post(f"{group.path}/rollback", json={"version": 1, "percent": percent}).status_code == 400


def test_many_aborted_stages_keep_the_current_version(server: Server, management: httpx.Client) -> None:
    group = StagedGroup(server, management, "persistent", 1)
    for number in range(25):
        group.put(f"a: {number + 2}", percent=50).raise_for_status()
        group.abort()
    assert management.get(group.path).text == "a: 1"
    assert group.with_content("a: 1") == set(group.clients)
    assert len(management.get(f"{group.path}/versions").json()) == 21


def test_the_groups_of_an_agent_are_staged_separately(server: Server, management: httpx.Client) -> None:
    for name in ("left-half", "right-half"):
        management.post("/groups", json={"name": name})
    ids = [server.enroll(management, f"halved-{number}", ("left-half", "right-half")) for number in range(4)]
    for name in ("left-half", "right-half"):
        management.put(f"/groups/{name}/files/{name}.yml", content=f"{name}: 1").raise_for_status()
        management.put(f"/groups/{name}/files/{name}.yml?percent=50", content=f"{name}: 2").raise_for_status()
    for name in ("left-half", "right-half"):
        counts = management.get(f"/groups/{name}/configuration").json()
        assert (counts["agents"], counts["pending"]) == (4, 4)
    for agent_id in ids:
        expected = management.get(f"/agents/{agent_id}/configuration").json()["wanted"]
        server.log_in(agent_id).put("/configuration", json={"sha256": expected})
    assert management.get("/groups/left-half/configuration").json()["in_sync"] == 4
    assert management.get("/groups/right-half/files/right-half.yml/stage").json()["in_sync"] == 2


def test_a_stage_is_in_the_audit_trail_and_readers_only_see_it(server: Server, management: httpx.Client) -> None:
    group = StagedGroup(server, management, "audited-stage", 1)
    group.put("a: 2", percent=10)
    group.widen(20)
    group.promote()
    trail = management.get("/audit?subject=group_files&key=audited-stage/audited-stage.yml").json()["items"]
    percents = [
        ((entry["before"] or {}).get("staged_percent"), (entry["after"] or {}).get("staged_percent"))
        for entry in trail
        if (entry["before"] or entry["after"])["version"] == 2
    ]
    assert percents == [(None, 10), (10, 20), (20, None)]
    group.put("a: 3", percent=10)
    reader = server.user(management, "stage-reader", "reader")
    assert reader.get(f"{group.path}/stage").status_code == 200
    assert reader.patch(f"{group.path}/stage", json={"percent": 50}).status_code == 403
    assert reader.post(f"{group.path}/stage/promote").status_code == 403
    assert reader.delete(f"{group.path}/stage").status_code == 403
