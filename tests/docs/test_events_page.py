"""The examples of the page for readers of events work as printed, against a real server and a real psql."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from signal import SIGKILL
from uuid import UUID

import httpx
import pytest
from sqlalchemy import make_url
from support.balancers import install
from support.batches import stateless
from support.server import Server
from support.waiting import PATIENCE, wait_until

from comms_api.embedded_postgresql.home import binary

PAGE = (Path(__file__).parents[2] / "docs" / "events.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
TEXTS = ["sshd[1]: Failed password for root", 'sshd[2]: "quoted", \\. and \x01\x02', "cron[3]: é\u2028\ttab"]
ODD = [b'{"spaces":\r\t1}', rb'{"escaped":"\u0001\u0002\"\\,"}', rb'{"event":{"original":"\\."}}', b'{"":{}}']


def block(word: str) -> str:
    """Return the only block that contains a word."""
    [found] = [text for text in BLOCKS if word in text]
    return found


@pytest.fixture(scope="module", autouse=True)
def agent_id(server: Server, management: httpx.Client) -> UUID:
    """An agent whose events have every kind of character."""
    agent_id = server.enroll(management, "web-1")
    batch = stateless(agent_id, *({"event": {"original": text}} for text in TEXTS), *ODD)
    server.log_in(agent_id).post("/events/stateless", content=batch).raise_for_status()
    return agent_id


@pytest.fixture(scope="module")
def variables(
    server: Server, management: httpx.Client, new_database: Callable[[], str], folder: Path
) -> Mapping[str, str]:
    """The environment of a user who has logged in, and whose psql uses another database."""
    for program in ("curl", "jq"):
        install(program, runs_as_root=False)
    other = make_url(new_database())
    address = {"PGHOST": other.host or other.query["host"], "PGPORT": other.port or other.query.get("port", 5432)}
    session = {"PGUSER": other.username, "PGPASSWORD": other.password or "", "PGDATABASE": other.database}
    programs = [str(Path(sys.executable).parent), str(binary("psql").parent), os.environ["PATH"]]
    found = os.environ | {name: str(value) for name, value in (address | session).items()}
    found |= {"PATH": ":".join(programs), "XDG_STATE_HOME": str(folder / "state")}
    found["TOKEN"] = management.headers["Authorization"].removeprefix("Bearer ")
    login = f"comms-api login --url {server.management_url} --ca '{server.ca}' --password-file '{folder}/password'"
    run(login, folder, found)
    return found


def run(script: str, folder: Path, variables: Mapping[str, str]) -> str:
    """Run a block in the folder with a node's certificates, and return its output."""
    command = ["/bin/bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def test_an_export_is_read_by_other_programs(server: Server, folder: Path, variables: Mapping[str, str]) -> None:
    script = block("grep -c sshd").replace("https://localhost:55000", server.management_url)
    count, *lines, end = run(script, folder, variables).split("\n")
    assert (count, end) == ("2", "")
    assert len([json.loads(line)["event"] for line in lines]) == len(TEXTS) + len(ODD)


def test_an_export_is_loaded_into_a_table(folder: Path, variables: Mapping[str, str], agent_id: UUID) -> None:
    shown = run(block("CREATE TABLE imported"), folder, variables)
    assert re.search(rf"{agent_id} +\| +{len(TEXTS) + len(ODD)}\n", shown)


def test_a_follower_that_was_killed_continues(
    server: Server, folder: Path, variables: Mapping[str, str], agent_id: UUID
) -> None:
    received, tool, agent = folder / "received", folder / "bin" / "other-tool", server.log_in(agent_id)
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\ncat >>received\n")
    tool.chmod(0o755)
    script = block("other-tool").replace("https://localhost:55000", server.management_url)
    command, path = ["/bin/bash", "-c", script], f"{tool.parent}:{variables['PATH']}"
    for number in range(2):
        process = subprocess.Popen(command, cwd=folder, env={**variables, "PATH": path}, start_new_session=True)
        try:
            wait_until(lambda: (folder / "position").exists() and (folder / "position").read_text())
            agent.post("/events/stateless", content=stateless(agent_id, {"followed": number})).raise_for_status()
            wait_until(lambda number=number: received.exists() and f'{{"followed":{number}}}' in received.read_text())
        finally:
            os.killpg(process.pid, SIGKILL)
            process.wait()
