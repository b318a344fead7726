"""`comms-api login`, and the profiles that keep logins."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import httpx
import msgspec
import pytest
import trustme
from support.server import PASSWORD, Server, running_server
from support.waiting import PATIENCE

from comms_api.management_client.pinning import fingerprint
from comms_api.management_client.profiles import Profile, ProfileFolder


class CommandLine:
    """Runs `comms-api` with a separate state folder."""

    def __init__(self, server: Server, state: Path) -> None:
        self.url = server.management_url
        self.folder = ProfileFolder(state / "comms-api" / "profiles" / "default")
        self._password = ("--password-file", str(server.folder / "password"))
        kept = {name: value for name, value in os.environ.items() if not name.startswith("COMMS_")}
        self._environment = kept | {"XDG_STATE_HOME": str(state)}

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-m", "comms_api", *words]
        environment = self._environment | variables
        return subprocess.run(
            program,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def good(self, *words: str, **variables: str) -> str:
        done = self.run(*words, **variables)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fault(self, *words: str) -> str:
        done = self.run(*words)
        assert done.returncode == 1, done.stdout
        assert len(done.stderr.splitlines()) == 1
        return done.stderr

    def log_in(self, *words: str) -> str:
        return self.good("login", "--url", self.url, *self._password, *words)

    def refused_login(self, *words: str) -> str:
        return self.fault("login", "--url", self.url, *self._password, *words)

    def at_terminal(self, answers: Mapping[str, str], *words: str) -> str:
        """Run it at a terminal that answers each question when it appears; return the output of both streams."""
        screen, terminal = pty.openpty()
        program = [sys.executable, "-m", "comms_api", *words]
        shown = b""
        with subprocess.Popen(
            program,
            env=self._environment,
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process:
            assert process.stdout is not None
            for question, answer in answers.items():
                while question.encode() not in shown and (read := os.read(process.stdout.fileno(), 65536)):
                    shown += read
                os.write(screen, f"{answer}\n".encode())
            shown += process.stdout.read()
        os.close(terminal)
        os.close(screen)
        return shown.decode()


@pytest.fixture
def shell(server: Server, tmp_path: Path) -> CommandLine:
    return CommandLine(server, tmp_path)


@pytest.fixture
def authority(server: Server) -> str:
    return fingerprint(server.ca.read_bytes())


def test_a_login_by_the_authority_serves_all_commands(server: Server, shell: CommandLine) -> None:
    assert shell.log_in("--ca", str(server.ca)) == f"logged in at {shell.url} as admin\n"
    who = json.loads(shell.good("whoami", "--json"))
    assert who == {"url": shell.url, "name": "admin", "role": "administrator"}
    assert "active" in shell.good("cluster", "nodes")
    [kept] = json.loads(shell.good("profiles", "list", "--json"))
    assert (kept["profile"], kept["user"], kept["is_logged_in"]) == ("default", "admin", True)
    files = [path for path in shell.folder.path.rglob("*") if path.name != "lock"]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert PASSWORD not in "".join(path.read_text() for path in files)


def test_the_certificate_is_pinned_once_its_fingerprint_is_confirmed(shell: CommandLine, authority: str) -> None:
    refusal = shell.refused_login()
    assert authority in refusal
    assert "--fingerprint" in refusal
    assert "no known authority" in shell.refused_login("--fingerprint", "00:" * 31 + "00")
    assert shell.folder.find() is None
    shell.log_in("--fingerprint", authority.replace(":", "").lower())
    assert json.loads(shell.good("profiles", "list", "--json"))[0]["ca"] == authority
    assert shell.good("whoami", "--jq", ".name") == "admin\n"


def test_a_terminal_shows_the_fingerprint_and_asks_for_the_password(shell: CommandLine, authority: str) -> None:
    shown = shell.at_terminal({"Trust it?": "y", "Password of admin": PASSWORD}, "login", "--url", shell.url)
    assert authority in shown
    assert "Password of admin" in shown
    assert PASSWORD not in shown
    assert f"logged in at {shell.url} as admin" in shown
    assert "Aborted" in shell.at_terminal({"Trust it?": "n"}, "login", "--url", shell.url, "--profile", "other")


def test_a_changed_certificate_is_refused_until_it_is_confirmed(
    shell: CommandLine, authority: str, scratch: Path, new_database: Callable[[], str]
) -> None:
    shell.log_in("--fingerprint", authority)
    with running_server(scratch / "impostor", new_database()) as impostor:
        profile = shell.folder.find()
        assert profile is not None
        shell.folder.write(msgspec.structs.replace(profile, url=impostor.management_url))
        theirs = fingerprint(impostor.ca.read_bytes())
        refusal = shell.fault("cluster", "nodes")
        assert f"the pinned certificate is {authority}" in refusal
        assert "--fingerprint SHA256" in refusal
        shell.url = impostor.management_url
        changed = shell.refused_login()
        assert f"{authority} is pinned, but the server sends {theirs}" in changed
        shell.log_in("--fingerprint", theirs)
        assert "active" in shell.good("cluster", "nodes")


def test_a_file_with_several_authorities_and_comments_is_pinned(
    server: Server, shell: CommandLine, authority: str, tmp_path: Path
) -> None:
    other = trustme.CA().cert_pem.bytes()
    (tmp_path / "several.pem").write_bytes(b"Our authorities:\n" + other + b"\nand\n" + server.ca.read_bytes())
    shell.log_in("--ca", str(tmp_path / "several.pem"))
    [kept] = json.loads(shell.good("profiles", "list", "--json"))
    assert kept["ca"] == f"{fingerprint(other)}, {authority}"
    assert shell.good("whoami", "--jq", ".name") == "admin\n"


def test_an_unknown_certificate_is_refused_with_advice(shell: CommandLine, server: Server) -> None:
    words = ("--url", shell.url, "--password-file", str(server.folder / "password"))
    assert f"comms-api login --url {shell.url}" in shell.fault("cluster", "nodes", *words)


@pytest.fixture
def logged_in(shell: CommandLine, server: Server) -> CommandLine:
    shell.log_in("--ca", str(server.ca))
    return shell


def expired(folder: ProfileFolder) -> Profile:
    profile = folder.find()
    assert profile is not None
    folder.write(msgspec.structs.replace(profile, expires_at=datetime.now(UTC)))
    return profile


def test_concurrent_commands_renew_an_expired_token_once(logged_in: CommandLine) -> None:
    before = expired(logged_in.folder)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: logged_in.good("whoami", "--jq", ".name"), range(4)))
    after = logged_in.folder.find()
    assert found == ["admin\n"] * 4
    assert after is not None
    assert (after.token, after.refresh_token) != (before.token, before.refresh_token)
    assert after.expires_at > datetime.now(UTC)


def test_a_refused_token_is_renewed(logged_in: CommandLine) -> None:
    profile = logged_in.folder.find()
    assert profile is not None
    logged_in.folder.write(msgspec.structs.replace(profile, token="nonsense"))
    assert logged_in.good("whoami", "--jq", ".name") == "admin\n"


def test_a_refused_token_is_renewed_for_an_export(logged_in: CommandLine) -> None:
    profile = logged_in.folder.find()
    assert profile is not None
    logged_in.folder.write(msgspec.structs.replace(profile, token="nonsense"))
    assert '"subject":"users"' in logged_in.good("audit", "export")


def test_a_session_that_has_ended_says_how_to_log_in_again(logged_in: CommandLine) -> None:
    expired(logged_in.folder)
    profile = logged_in.folder.find()
    assert profile is not None
    logged_in.folder.write(msgspec.structs.replace(profile, refresh_token="nonsense"))
    assert "Log in again: comms-api login" in logged_in.fault("whoami")
    assert logged_in.good("logout") == f"logged out at {logged_in.url}\n"


def test_a_logout_revokes_the_tokens_and_keeps_the_server(
    server: Server, management: httpx.Client, shell: CommandLine
) -> None:
    server.user(management, "leaver", "reader")
    shell.log_in("--ca", str(server.ca), "--user", "leaver")
    profile = shell.folder.find()
    assert profile is not None
    assert shell.good("logout") == f"logged out at {shell.url}\n"
    assert server.client(shell.url, profile.token).get("/users/me").status_code == 401
    assert "not logged in: comms-api login" in shell.fault("whoami")
    assert shell.log_in() == f"logged in at {shell.url} as leaver\n", "the profile keeps the user and the certificate"
    assert shell.good("logout", "--local") == f"logged out at {shell.url}\n"
    assert shell.good("profiles", "delete", "default") == "the profile default is deleted\n"
    assert "there is no profile 'default'" in shell.fault("profiles", "delete", "default")


def test_a_token_is_never_sent_to_another_server(logged_in: CommandLine) -> None:
    refusal = logged_in.fault("whoami", "--url", "https://localhost:1")
    assert f"the profile 'default' is for {logged_in.url}, not for https://localhost:1" in refusal
    assert "not for somebody" in logged_in.fault("whoami", "--user", "somebody")


def test_the_environment_names_the_server_and_the_profile(shell: CommandLine, server: Server) -> None:
    variables = {"COMMS_URL": shell.url, "COMMS_CA": str(server.ca), "COMMS_PROFILE": "work"}
    password = {"COMMS_PASSWORD_FILE": str(server.folder / "password")}
    shell.good("login", **variables, **password)
    assert json.loads(shell.good("profiles", "list", "--json"))[0]["profile"] == "work"
    assert shell.good("whoami", "--jq", ".name", **variables) == "admin\n"
    assert "cannot be the name of a profile" in shell.fault("whoami", "--profile", "../x")
