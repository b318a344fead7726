"""A rolling upgrade: this code and the code before the newest migration serve one database with the newest schema."""

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
from support.events import stored_lines
from support.server import Server, running_server
from support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
Query = Callable[..., list[Any]]


def git(*arguments: str) -> bytes:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, timeout=PATIENCE, check=False)  # noqa: S607 - any git will do
    if done.returncode:
        pytest.skip("the history of the repository is missing")
    return done.stdout


@pytest.fixture(scope="module")
def code_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code as it was before the newest migration."""
    commit = git("log", "--diff-filter=A", "--format=%H", "-1", "--", "migrations/versions").decode().strip()
    folder = tmp_path_factory.mktemp("before")
    archive = git("archive", f"{commit}^", "comms_api", "migrations", "alembic.ini")
    with tarfile.open(fileobj=io.BytesIO(archive)) as code:
        code.extractall(folder, filter="data")
    if "event_batches" not in (folder / "comms_api" / "database" / "schema.py").read_text():
        pytest.skip("revision 0033 dropped the table of events, which no release has used")
    return folder


@pytest.fixture(params=["old", "new"])
def pair(
    request: pytest.FixtureRequest,
    folder: Path,
    database_url: str,
    code_before: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[Server, Server]]:
    """Two nodes that share a folder; the parameter is the release of the first."""
    with running_server(folder, database_url) as new:
        monkeypatch.setenv("PYTHONPATH", str(code_before))
        with running_server(folder, database_url) as old:
            yield (old, new) if request.param == "old" else (new, old)


def test_two_releases_do_the_main_job_together(pair: tuple[Server, Server], code_before: Path, query: Query) -> None:
    assert not (code_before / "migrations" / "versions" / newest_migration()).exists()
    one, other = pair
    assert "is of a newer release" in (one.folder / "log").read_text()  # logged by the old release
    management = one.management()
    agent_id = one.enroll(management, f"enrolled on port {one.agent_port}")
    first = one.log_in(agent_id)
    second = other.client(other.agent_url, first.headers["Authorization"].removeprefix("Bearer "))
    for number, node in enumerate((first, second, first)):
        node.post("/events/stateless", content=stateless(agent_id, {"number": number})).raise_for_status()
        answer = node.post("/events/stateful", content=stateful(agent_id, state("1", "update", {f"by {number}": 1})))
        assert answer.json()["results"][0]["result"] == ("updated" if number else "created")
    for submitter, poller, reporter in ((one, second, first), (other, first, second)):
        with ThreadPoolExecutor(1) as pool:
            poll = pool.submit(poller.get, "/commands?wait=20")
            order_id = submit(submitter, agent_id)
            [order] = poll.result(timeout=PATIENCE).json()["commands"]
        assert order["order_id"] == order_id
        result = {"results": [{"order_id": order_id, "result": {"code": 0}}]}
        reported = reporter.post("/commands/results", json=result)
        assert [outcome["result"] for outcome in reported.json()["results"]] == ["updated"]
        assert management.get(f"/orders/{order_id}").json()["status"] == "success"
    assert len(stored_lines(query, agent_id)) == 3
    assert len(query("SELECT 1 FROM states WHERE agent_id = $1", agent_id)) == 1
    assert [node["state"] for node in management.get("/nodes").json()] == ["active"] * 2


def newest_migration() -> str:
    return max(path.name for path in (ROOT / "migrations" / "versions").glob("0*.py"))


def submit(server: Server, agent_id: UUID) -> str:
    """Submit a command for an agent and return the id of its order."""
    answer = server.management().post("/commands", json=command(agent_id))
    assert answer.status_code == 201, answer.text
    return str(answer.json()["commands"][0]["order_ids"][0])
