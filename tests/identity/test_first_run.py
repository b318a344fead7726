"""The first start gives its operator a password, a certificate authority, a log, and a password reset."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from logging import INFO, getLogger
from pathlib import Path

import httpx
import pytest
from support.server import KEY, PASSWORD, Server, environment, new_id, start_server
from support.waiting import wait_until

from comms_api.text.limited_log import LINES_MAXIMUM, LimitedLog


@pytest.fixture(scope="module")
def url(new_database: Callable[[], str]) -> str:
    return new_database()


@pytest.fixture(scope="module")
def node(folder: Path, url: str) -> Iterator[Server]:
    """A node whose operator has set no password."""
    node = start_server(folder, url, admin_password_file=None)
    yield node
    node.stop()


@pytest.fixture
def password_file(node: Server) -> Path:
    return node.folder / "data" / "admin.password"


def log_in(node: Server, password: str) -> httpx.Response:
    return node.client(node.management_url).post("/security/user/authenticate", auth=("admin", password))


def administrator(node: Server, password: str) -> httpx.Client:
    client = node.client(node.management_url)
    client.headers["Authorization"] = f"Bearer {log_in(node, password).json()['data']['token']}"
    return client


def reset(node: Server, url: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "comms_api", "users", "reset-password", *words]
    variables = environment(node.folder, url, admin_password_file=None)
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def log_of(node: Server) -> str:
    return (node.folder / "log").read_text()


def test_the_first_password_is_in_a_file_for_its_owner_alone(node: Server, password_file: Path) -> None:
    assert password_file.stat().st_mode & 0o777 == 0o600
    assert log_in(node, password_file.read_text()).status_code == 200


def test_everyone_may_read_the_authority_and_only_the_owner_its_key(node: Server) -> None:
    certs = node.folder / "certs"
    assert (certs / "ca.pem").stat().st_mode & 0o777 == 0o644
    assert (certs / "server.key").stat().st_mode & 0o777 == 0o600


def test_the_first_start_is_quiet(node: Server) -> None:
    assert "alembic" not in log_of(node)


def test_enrollments_and_logins_are_in_the_log(node: Server, password_file: Path) -> None:
    management = administrator(node, password_file.read_text())
    agent_id = node.enroll(management, "web-1")
    node.token(agent_id)
    for line in (
        "user admin logged in from 127.0.0.1",
        f"agent web-1 ({agent_id}) enrolled from 127.0.0.1",
        f"agent {agent_id} logged in from 127.0.0.1",
    ):
        assert line in log_of(node)


def test_refused_enrollments_and_logins_are_in_the_log(node: Server, password_file: Path) -> None:
    management, client = administrator(node, password_file.read_text()), node.client(node.agent_url)
    agent_id, other_id = node.enroll(management, "web-2"), new_id()
    client.post("/login", json={"uuid": str(agent_id), "key": KEY + "x"})
    client.post("/login", json={"uuid": str(other_id), "key": KEY})
    management.post("/agents", json={"id": str(other_id), "name": "web-2", "key": KEY})
    client.post("/enroll", headers={"Authorization": "Bearer nonsense"}, json={"name": "web-3", "key": KEY})
    log_in(node, "a wrong password")
    for line in (
        f"login of agent {agent_id} from 127.0.0.1 refused: Invalid key",
        f"login of agent {other_id} from 127.0.0.1 refused: Agent does not exist",
        f"enrollment of agent web-2 ({other_id}) from 127.0.0.1 refused: An agent with the id",
        "enrollment by a token from 127.0.0.1 refused: The enrollment token is unknown",
        "login of user admin from 127.0.0.1 refused: The user name or the password is wrong.",
    ):
        assert line in log_of(node)
    assert KEY not in log_of(node)


def test_a_lost_password_is_reset_on_the_node(node: Server, url: str, password_file: Path) -> None:
    old = password_file.read_text()
    management = administrator(node, old)
    done = reset(node, url)
    assert (done.returncode, done.stdout) == (0, f"the new password of admin is in {password_file}\n"), done.stderr
    new = password_file.read_text()
    assert new != old
    assert password_file.stat().st_mode & 0o777 == 0o600
    assert log_in(node, old).status_code == 401
    wait_until(lambda: management.get("/users").status_code == 401)  # the old tokens have ended
    entries = administrator(node, new).get("/audit?subject=users").json()["items"]
    assert entries[-1]["actor"] == "comms-api users reset-password"


def test_a_password_is_reset_to_one_from_a_file(node: Server, url: str, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    assert reset(node, url, "admin", "--password-file", str(file)).returncode == 0
    assert log_in(node, PASSWORD).status_code == 200
    (node.folder / "data" / "admin.password").write_text(PASSWORD)


@pytest.mark.parametrize(
    ("name", "password", "reason"),
    [
        ("nobody", PASSWORD, "There is no user 'nobody'."),
        ("admin", "short", "--password-file: the password must have at least"),
    ],
)
def test_a_failed_reset_prints_one_line(node: Server, url: str, name: str, password: str, reason: str) -> None:
    file = node.folder / f"{name}-password"
    file.write_text(password)
    done = reset(node, url, name, "--password-file", str(file))
    assert done.returncode == 1
    assert done.stderr.startswith(f"comms-api: {reason}")
    assert done.stderr.count("\n") == 1


def test_log_lines_are_limited_and_single(caplog: pytest.LogCaptureFixture) -> None:
    minute = [0.0]
    notices = LimitedLog(getLogger("notices"), INFO, lambda: minute[0])
    with caplog.at_level(INFO, "notices"):
        for number in range(LINES_MAXIMUM + 5):
            notices.write(f"one\nline \x1b {number}")
        minute[0] = 61.0
        notices.write("the next minute")
    assert len(caplog.messages) == LINES_MAXIMUM + 2
    assert caplog.messages[0] == r"one\nline \x1b 0"
    assert caplog.messages[-2:] == ["5 more lines like these were omitted", "the next minute"]
