"""The reference agent keeps a copy of its groups' files, whichever way it was enrolled."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from support.server import KEY, Server, running_server
from support.waiting import PATIENCE, wait_until


@contextmanager
def running_agent(server: Server, folder: Path, *options: str) -> Iterator[Path]:
    program = [sys.executable, "-m", "comms_api", "agent", "--url", server.agent_url, "--no-inventory"]
    program += ["--ca", str(server.folder / "certs" / "ca.pem"), "--data-dir", str(folder), "--wait-seconds", "5"]
    with subprocess.Popen(
        [*program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield folder / "files"
        finally:
            process.terminate()
            assert process.wait(timeout=PATIENCE) == 0, process.communicate()


def in_sync(management: httpx.Client, name: str) -> bool:
    return name in [agent["name"] for agent in management.get("/agents?in_sync=true").json()["items"]]


def test_a_changed_file_or_group_reaches_the_agents_disk(
    server: Server, management: httpx.Client, tmp_path: Path
) -> None:
    for group in ("disk", "other"):
        management.post("/groups", json={"name": group})
        management.put(f"/groups/{group}/files/{group}.yml", content=f"name: {group}")
    token = management.post("/enrollment-tokens", json={"groups": ["disk"], "expires_in": 600}).json()["token"]
    (tmp_path / "token").write_text(token)
    with running_agent(server, tmp_path, "--name", "disk", "--enrollment-token-file", str(tmp_path / "token")) as files:
        wait_until(lambda: bool(management.get("/agents?name=disk").json()["items"]))
        management.put("/groups/disk/files/disk.yml", content="name: changed")
        wait_until(lambda: in_sync(management, "disk"))
        assert (files / "disk.yml").read_text() == "name: changed"
        agent_id = management.get("/agents?name=disk").json()["items"][0]["id"]
        management.put(f"/groups/other/agents/{agent_id}")
        wait_until(lambda: (files / "other.yml").exists() and in_sync(management, "disk"))
        management.delete(f"/groups/disk/agents/{agent_id}")
        wait_until(lambda: not (files / "disk.yml").exists() and in_sync(management, "disk"))


def test_an_agent_of_an_external_database_sends_with_the_id_that_the_server_gave_it(
    folder: Path, new_database: Callable[[], str], tmp_path: Path
) -> None:
    program = folder / "program.sh"
    answer = f'{{"error":0,"data":{{"id":"042","name":"external","ip":"any","key":"{KEY}"}}}}'
    program.write_text(f"#!/bin/sh\necho '{answer}'\n")
    program.chmod(0o755)
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "log").write_text("one line\n")
    with running_server(folder / "external", new_database(), key_request_program=f"'{program}'") as server:
        management = server.management()
        options = [
            "--id",
            "042",
            "--key-file",
            str(tmp_path / "key"),
            "--log-file",
            str(tmp_path / "log"),
            "--from-start",
        ]
        with running_agent(server, tmp_path, *options, "--batch-seconds", "0.2"):
            wait_until(lambda: bool(management.get("/events").json()["items"]))
        [agent] = management.get("/agents").json()["items"]
        [event] = management.get("/events").json()["items"]
        assert (agent["external_id"], event["agent_id"]) == ("042", agent["id"])
