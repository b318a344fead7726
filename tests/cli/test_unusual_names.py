"""Hosts and folders whose names are not ASCII, or not even UTF-8: everything works, or says why in one line."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from support.server import Server, environment
from support.waiting import PATIENCE

UMLAUT, LATIN_1 = "büro".encode(), b"b\xfcro"
PROGRAM = [sys.executable, "-m", "comms_api"]

RENAME = """
import ctypes, os, sys
name, libc = os.fsencode(sys.argv[1]), ctypes.CDLL(None)
assert libc.unshare(0x04000000) == 0 and libc.sethostname(name, len(name)) == 0
os.execv(sys.argv[2], sys.argv[2:])
"""


def on_host(name: bytes) -> list[str | bytes]:
    """Return a command prefix that runs a program in a separate UTS namespace with this host name."""
    if os.geteuid() != 0 or not hasattr(ctypes.CDLL(None), "unshare"):
        pytest.skip("only root may change the host name of a namespace")
    return [sys.executable, "-c", RENAME, name]


@pytest.mark.parametrize(("host", "shown"), [(UMLAUT, "büro"), (LATIN_1, "b\\xfcro")])
def test_an_agent_on_a_host_and_in_folders_of_any_name_is_enrolled_and_sends(
    server: Server, management: httpx.Client, tmp_path: Path, host: bytes, shown: str
) -> None:
    folder = os.fsencode(tmp_path) + b"/d\xe9"
    Path(os.fsdecode(folder)).mkdir()
    Path(os.fsdecode(folder + b"/x.log")).write_text("line\n")
    program = [*on_host(host), *PROGRAM, "agent", "--once", "--from-start", "--data-dir", folder]
    program += ["--url", server.agent_url, "--management-url", server.management_url]
    program += ["--ca", str(server.folder / "certs" / "ca.pem"), "--password-file", str(server.folder / "password")]
    subprocess.run([*program, "--log-file", folder + b"/*.log"], check=True, timeout=PATIENCE)
    [agent] = management.get("/agents", params={"name": shown}).json()["items"]
    assert agent["host"]["hostname"] == shown
    [event] = management.get("/events", params={"agent_id": agent["id"]}).json()["items"]
    assert event["event"]["event"]["original"] == "line"


@pytest.mark.parametrize("host", [UMLAUT, LATIN_1])
def test_a_node_starts_on_a_host_of_any_name(folder: Path, new_database: Callable[[], str], host: bytes) -> None:
    home = folder / host.hex()
    home.mkdir()
    node = subprocess.Popen(
        [*on_host(host), *PROGRAM, "serve"],
        cwd=home,
        env=environment(home, new_database()),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert node.stdout is not None
    try:
        assert any(line.startswith("management API") for line in node.stdout)
    finally:
        node.send_signal(signal.SIGTERM)
        node.communicate()
    assert node.returncode == 0


def run(*words: str | bytes, **more: Path) -> tuple[int, str]:
    done = subprocess.run([*PROGRAM, *words], capture_output=True, text=True, check=False, timeout=PATIENCE, **more)
    return done.returncode, done.stderr


def test_a_name_that_is_not_text_is_an_error_of_one_line(folder: Path, tmp_path: Path) -> None:
    home = folder / os.fsdecode(b"d\xe9")
    home.mkdir()
    (tmp_path / "file").touch()
    ports = ("--agent-bind", "127.0.0.1:0", "--management-bind", "127.0.0.1:0")
    code, errors = run("serve", *ports, "--data-dir", str(home), cwd=folder)
    assert (code, errors.count("\n")) == (1, 1)
    assert f"data_dir: the embedded PostgreSQL needs a path in UTF-8, which {folder}/d\\udce9/postgres is not" in errors
    for words in (
        ("commands", "list", "--password-file", tmp_path / "file", "--user", b"\xfc"),
        ("agent", "--url", "https://localhost:1", "--data-dir", tmp_path / "file" / os.fsdecode(b"\xfc")),
        ("commands", "list", "--password-file", tmp_path / "file", "--url", b"https://\xfc:1"),
    ):
        code, errors = run(*words)
        assert (code, errors.count("\n"), "\\udcfc" in errors) == (1, 1, True)
