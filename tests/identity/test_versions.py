"""Versions of a file can be compared and restored, and files can be pushed to agents again."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.server import Server
from support.waiting import wait_until

from comms_api.files.diff import EDITS_MAXIMUM, LINES_MAXIMUM, find_edits, unified_diff

FETCH = {"name": "fetch-config", "args": {}, "version": ""}
LINES = st.lists(st.sampled_from(["a\n", "b\n", "c\n"]), max_size=30)


def put(management: httpx.Client, group: str, *contents: str) -> str:
    """Store versions of a group's file and return its path."""
    management.post("/groups", json={"name": group})
    path = f"/groups/{group}/files/{group}.yml"
    for content in contents:
        assert management.put(path, content=content).status_code == 200
    return path


def next_order(client: httpx.Client) -> dict[str, Any]:
    orders: list[dict[str, Any]] = []
    wait_until(lambda: orders.extend(client.get("/commands?wait=10").json()["commands"]) or orders)
    [order] = orders
    client.post("/commands/results", json={"results": [{"order_id": order["order_id"], "result": {"code": 0}}]})
    return order


@given(old=LINES, new=LINES)
def test_the_edits_lead_from_one_version_to_the_other(old: list[str], new: list[str]) -> None:
    edits = find_edits(old, new)
    assert [line for tag, line in edits if tag != "+"] == old
    assert [line for tag, line in edits if tag != "-"] == new


PATCH = shutil.which("patch")


@pytest.mark.skipif(PATCH is None, reason="needs patch(1)")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a\n" * 9 + "b\n" + "c\n" * 9, "a\n" * 9 + "x\ny\n" + "c\n" * 9),
        ("a\nb", "a\nb\n"),
        ("a\nb\n", "a\nb"),
        ("1\n" + "a\n" * 20 + "2\n", "0\n" + "a\n" * 20 + "3\n4\n"),
        ("a\n" * LINES_MAXIMUM, "b\n" * LINES_MAXIMUM),
        ("\n".join(map(str, range(2 * EDITS_MAXIMUM))), "\n".join(map(str, range(0, 4 * EDITS_MAXIMUM, 2)))),
    ],
)
def test_patch_applies_the_difference(tmp_path: Path, old: str, new: str) -> None:
    file = tmp_path / "file"
    file.write_text(old)
    difference = unified_diff(("file", old.encode()), ("file", new.encode()))
    subprocess.run([str(PATCH), "-s", file], input=difference.encode(), check=True)
    assert file.read_text() == new


def test_a_difference_names_the_versions(management: httpx.Client) -> None:
    path = put(management, "compared", "a: 1\nb: 1\n", "a: 1\nb: 2\n", "a: 1\nb: 3\n")
    shown = management.get(f"{path}/diff?old=1&new=2")
    assert shown.headers["Content-Type"].startswith("text/plain")
    assert shown.text == (
        "--- compared/compared.yml@1\n+++ compared/compared.yml@2\n@@ -1,2 +1,2 @@\n a: 1\n-b: 1\n+b: 2\n"
    )
    assert management.get(f"{path}/diff?old=1").text.endswith("-b: 1\n+b: 3\n")
    assert management.get(f"{path}/diff?old=3").text == ""
    assert management.get(f"{path}/diff?old=9").status_code == 404
    assert management.get(f"{path}/diff").status_code == 400


def test_only_small_files_are_compared_and_bytes_that_are_no_text_only_differ(management: httpx.Client) -> None:
    management.post("/groups", json={"name": "odd"})
    for name, contents in (("large.txt", [b"a" * 2**20, b"b"]), ("bytes.bin", [b"\xff", b"\xfe"])):
        for content in contents:
            assert management.put(f"/groups/odd/files/{name}", content=content).status_code == 200
    assert management.get("/groups/odd/files/large.txt/diff?old=1").status_code == 413
    assert management.get("/groups/odd/files/bytes.bin/diff?old=1").text.startswith("Binary files odd/bytes.bin@1 and")


def test_a_rollback_stores_the_earlier_content_as_a_new_version_and_announces_it(
    server: Server, management: httpx.Client
) -> None:
    path = put(management, "returning", "a: 1", "a: 2")
    client = server.log_in(server.enroll(management, "returning", ("returning",)))
    stored = management.post(f"{path}/rollback", json={"version": 1}).json()
    assert (stored["version"], stored["is_current"]) == (3, True)
    assert next_order(client)["action"] == FETCH
    assert client.get("/files?file_name=returning.yml").text == "a: 1"
    again = management.post(f"{path}/rollback", json={"version": 1}).json()
    assert again["version"] == 3
    assert management.post(f"{path}/rollback", json={"version": 9}).status_code == 404
    management.delete(path)
    assert management.post(f"{path}/rollback", json={"version": 2}).json()["version"] == 4
    assert management.get(path).text == "a: 2"


@pytest.mark.parametrize("kind", ["agents", "groups", "nodes"])
def test_a_push_makes_agents_in_sync_fetch_again(server: Server, management: httpx.Client, kind: str) -> None:
    group = f"pushed-{kind}"
    put(management, group, "a: 1")
    agent_id = server.enroll(management, group, (group,))
    client = server.log_in(agent_id)
    client.put("/configuration", json={"sha256": management.get(f"/agents/{agent_id}/configuration").json()["wanted"]})
    wait_until(lambda: management.get(f"/agents/{agent_id}").json()["node"])
    node = management.get(f"/agents/{agent_id}").json()["node"]
    names = {"agents": group, "groups": group, "nodes": node}
    pushed = management.post(f"/{kind}/{names[kind]}/configuration/push")
    assert pushed.status_code == 202
    assert pushed.json()["agents"] >= 1
    assert next_order(client)["action"] == FETCH
    key = str(agent_id) if kind == "agents" else names[kind]
    [entry] = [
        found
        for found in management.get("/audit", params={"subject": kind, "key": key}).json()["items"]
        if "pushed" in (found["after"] or {})
    ]
    assert (entry["actor"], entry["operation"]) == ("admin", "update")
    assert entry["after"] == {"pushed": pushed.json()["agents"]}
    assert management.post(f"/{kind}/nowhere/configuration/push").status_code == 404


def test_readers_compare_and_operators_change(server: Server, management: httpx.Client) -> None:
    path = put(management, "guarded", "a: 1", "a: 2")
    reader = server.user(management, "diff-reader", "reader")
    assert reader.get(f"{path}/diff?old=1").status_code == 200
    assert reader.post(f"{path}/rollback", json={"version": 1}).status_code == 403
    assert reader.post("/groups/guarded/configuration/push").status_code == 403
