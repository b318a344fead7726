"""A rolling upgrade: the code before the newest migration and today's serve one database, on the newest schema."""

import io
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from support.batches import command, state, stateful, stateless
from support.server import Server, running_server
from support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
Query = Callable[..., list[Any]]


def git(*arguments: str) -> bytes:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, timeout=PATIENCE, check=False)  # noqa: S607 - whichever is here
    if done.returncode:
        pytest.skip("the repository's history is not here")
    return done.stdout


@pytest.fixture(scope="module")
def code_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code as it was before the newest migration."""
    made = git("log", "--diff-filter=A", "--format=%H", "-1", "--", "migrations/versions").decode().strip()
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(fileobj=io.BytesIO(git("archive", f"{made}^", "comms_api", "migrations", "alembic.ini"))) as code:
        code.extractall(folder, filter="data")
    return folder


@pytest.fixture(params=["old", "new"])
def pair(
    request: pytest.FixtureRequest,
    folder: Path,
    database_url: str,
    code_before: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[Server, Server]]:
    """Two nodes that share a folder; the one that is asked first is of the release that the parameter names."""
    with running_server(folder, database_url) as new:
        monkeypatch.setenv("PYTHONPATH", str(code_before))
        with running_server(folder, database_url) as old:
            yield (old, new) if request.param == "old" else (new, old)


def test_two_releases_do_the_main_job_together(pair: tuple[Server, Server], code_before: Path, query: Query) -> None:
    assert not (code_before / "migrations" / "versions" / newest_migration()).exists()
    one, other = pair
    assert "is of a newer release" in (one.folder / "log").read_text()  # says the old one
    management = one.management()
    agent_id = one.enroll(management, f"first asked on port {one.agent_port}")
    here = one.log_in(agent_id)
    there = other.client(other.agent_url, here.headers["Authorization"].removeprefix("Bearer "))
    for number, node in enumerate((here, there, here)):
        node.post("/events/stateless", content=stateless(agent_id, {"number": number})).raise_for_status()
        sent = node.post("/events/stateful", content=stateful(agent_id, state("1", "update", {f"by {number}": 1})))
        assert sent.json()["results"][0]["result"] == ("updated" if number else "created")
    for submitter, poller, reporter in ((one, there, here), (other, here, there)):
        with ThreadPoolExecutor(1) as pool:
            poll = pool.submit(poller.get, "/commands?wait=20")
            order = submit(submitter, agent_id)
            [given] = poll.result(timeout=PATIENCE).json()["commands"]
        assert given["order_id"] == order
        result = {"results": [{"order_id": order, "result": {"code": 0}}]}
        reported = reporter.post("/commands/results", json=result)
        assert [outcome["result"] for outcome in reported.json()["results"]] == ["updated"]
        assert management.get(f"/orders/{order}").json()["status"] == "success"
    where = "WHERE agent_id = $1"
    assert [len(query(f"SELECT 1 FROM {table} {where}", agent_id)) for table in ("events", "states")] == [3, 1]
    assert [node["state"] for node in management.get("/nodes").json()] == ["active"] * 2


def newest_migration() -> str:
    return max(path.name for path in (ROOT / "migrations" / "versions").glob("0*.py"))


def submit(server: Server, agent_id: UUID) -> str:
    """Submit a command for an agent and return its order."""
    answer = server.management().post("/commands", json=command(agent_id))
    assert answer.status_code == 201, answer.text
    return str(answer.json()["commands"][0]["order_ids"][0])
