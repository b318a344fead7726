"""A node as a service: a new certificate on SIGHUP, notifications to systemd, and sockets that outlive a restart."""

import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGHUP, SIGKILL, SIGTERM
from typing import Any

import httpx
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from support.batches import command
from support.heartbeats import wait_for_polls
from support.ports import fixed_binds
from support.raw import connect, read_answer, request
from support.server import Server, environment, running_server
from support.waiting import PATIENCE, wait_until

from comms_api.app.systemd import find_manager
from comms_api.errors import ConfigurationError

WATCHDOG_SECONDS = 12.0

WITH_SOCKETS = """
import os, sys
for target, descriptor in enumerate(map(int, sys.argv[1:]), start=3):
    os.dup2(descriptor, target)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "management:agent"}
os.execv(sys.executable, [sys.executable, "-m", "comms_api", "serve"])
"""
"""Passes sockets as systemd does: as descriptors from 3 on, to the first process of the service."""


@dataclass
class Certificates:
    """The certificate files of a node, and the authority that issues them."""

    folder: Path
    authority: trustme.CA

    @property
    def settings(self) -> dict[str, Path]:
        return {"tls_certificate": self.folder / "chain.pem", "tls_key": self.folder / "key.pem"}

    def issue(self) -> bytes:
        """Replace the certificate with a new one, and return the new one as a client sees it."""
        issued = self.authority.issue_cert("localhost", "127.0.0.1")
        issued.cert_chain_pems[0].write_to_path(self.folder / "chain.pem")
        issued.private_key_pem.write_to_path(self.folder / "key.pem")
        return ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())


@pytest.fixture
def certificates(folder: Path) -> Certificates:
    made = Certificates(folder, trustme.CA())
    (folder / "certs").mkdir(exist_ok=True)
    made.authority.cert_pem.write_to_path(folder / "certs" / "ca.pem")
    return made


def seen_by(server: Server, connections: int = 12) -> set[bytes]:
    """Return the certificates that new connections to both APIs see."""
    seen = set()
    for port in (server.agent_port, server.management_port) * (connections // 2):
        with connect(server.tls, port) as connection:
            seen.add(connection.getpeercert(binary_form=True) or b"")
    return seen


@pytest.mark.parametrize("workers", [1, 2])
def test_sighup_brings_a_new_certificate_and_a_held_poll_survives(
    workers: int, folder: Path, database_url: str, certificates: Certificates
) -> None:
    old = certificates.issue()
    with running_server(folder, database_url, workers=workers, **certificates.settings) as server:
        management = server.management()
        agent_id = server.enroll(management, f"renewed-{workers}")
        token = server.token(agent_id)
        assert seen_by(server) == {old}
        with connect(server.tls, server.agent_port) as poll:
            poll.sendall(request("GET", "/commands?wait=60", token))
            wait_for_polls(management, 1)
            new = certificates.issue()
            server.process.send_signal(SIGHUP)
            wait_until(lambda: seen_by(server) == {new})
            assert management.post("/commands", json=command(agent_id)).status_code == 201
            assert b"order_id" in read_answer(poll).body


def test_a_certificate_without_its_key_leaves_the_previous_one_in_use(
    folder: Path, database_url: str, certificates: Certificates
) -> None:
    old = certificates.issue()
    with running_server(folder, database_url, **certificates.settings) as server:
        assert seen_by(server) == {old}
        key = (folder / "key.pem").read_bytes()
        certificates.issue()
        (folder / "key.pem").write_bytes(key)
        server.process.send_signal(SIGHUP)
        wait_until(lambda: "the old certificate stays in use" in (folder / "log").read_text())
        assert seen_by(server) == {old}


def test_a_new_key_that_has_a_password_is_refused_without_a_prompt(
    folder: Path, database_url: str, certificates: Certificates
) -> None:
    certificates.issue()
    binds = fixed_binds()
    variables = environment(folder, database_url, **certificates.settings, **binds)
    silent, standard_input = socket.socketpair()
    with silent, standard_input, (folder / "log").open("w") as log:
        # Without a terminal, a prompt would read the standard input.
        options: dict[str, Any] = {"stdin": standard_input, "stderr": log, "start_new_session": True}
        with service([sys.executable, "-m", "comms_api", "serve"], variables, **options) as process:
            wait_until(lambda: is_served(binds["agent_bind"]))
            key = load_pem_private_key((folder / "key.pem").read_bytes(), None)
            closed = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
            (folder / "key.pem").write_bytes(closed)
            process.send_signal(SIGHUP)
            wait_until(lambda: "the old certificate stays in use" in (folder / "log").read_text())


@pytest.fixture
def manager(folder: Path) -> Iterator[socket.socket]:
    """The socket at which a service manager receives notifications."""
    path = folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(PATIENCE)
        yield listener
    path.unlink()


@contextmanager
def service(arguments: list[str], variables: dict[str, str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a node as a service manager does."""
    process = subprocess.Popen(arguments, env=variables, stdout=subprocess.DEVNULL, **options)
    try:
        yield process
    finally:
        process.send_signal(SIGTERM)
        try:
            assert process.wait(timeout=PATIENCE) == 0
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_node_notifies_systemd_that_it_is_ready_alive_and_stopping(
    workers: int, folder: Path, database_url: str, manager: socket.socket
) -> None:
    variables = environment(folder, database_url, workers=workers)
    variables |= {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": str(int(WATCHDOG_SECONDS * 1e6))}
    with service([sys.executable, "-m", "comms_api", "serve"], variables):
        messages = {manager.recv(4096)}
        while b"READY=1" not in messages:
            messages.add(manager.recv(4096))
        since = time.monotonic()
        assert manager.recv(4096) == b"WATCHDOG=1"
        assert time.monotonic() - since < WATCHDOG_SECONDS
    last_messages = []
    while b"STOPPING=1" not in last_messages:
        last_messages.append(manager.recv(4096))
    assert set(last_messages) <= {b"WATCHDOG=1", b"STOPPING=1"}


def test_a_node_notifies_systemd_that_it_is_ready_although_its_first_worker_died_early(
    folder: Path, database_url: str, manager: socket.socket
) -> None:
    variables = environment(folder, database_url, workers=2) | {"NOTIFY_SOCKET": str(folder / "notify")}
    with service([sys.executable, "-m", "comms_api", "serve"], variables) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wait_until(lambda: len(children.read_text().split()) == 2, pause_seconds=0.001)
        os.kill(int(children.read_text().split()[0]), SIGKILL)
        assert manager.recv(4096) == b"READY=1"
        wait_until(lambda: len(children.read_text().split()) == 2)
        manager.setblocking(False)  # noqa: FBT003
        with pytest.raises(BlockingIOError):
            manager.recv(4096)
        manager.settimeout(PATIENCE)


def test_a_node_without_a_service_manager_sends_no_notification_and_gets_no_sockets() -> None:
    nobody = find_manager({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1", "LISTEN_PID": "1", "LISTEN_FDS": "2"})
    assert (nobody.watchdog_seconds, nobody.sockets, nobody.notify_watchdog(0)) == (None, {}, 0)
    nobody.notify("READY=1")
    find_manager({"NOTIFY_SOCKET": "/nowhere"}).notify("READY=1")  # a manager that has ended is not an error
    with pytest.raises(ConfigurationError, match="environment variables from systemd"):
        find_manager({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "two"})


@pytest.mark.parametrize("workers", [1, 2])
def test_connections_made_during_a_restart_wait_for_its_end(
    workers: int, scratch: Path, new_database: Callable[[], str]
) -> None:
    folder = scratch / f"handed-{workers}"
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as agent, socket.create_server(("127.0.0.1", 0)) as management:
        variables = environment(folder, new_database(), workers=workers)
        handed = (management.fileno(), agent.fileno())
        program = [sys.executable, "-c", WITH_SOCKETS, *map(str, handed)]
        urls = [f"https://127.0.0.1:{listener.getsockname()[1]}/" for listener in (agent, management)]
        with ThreadPoolExecutor(len(urls)) as threads:
            first = [threads.submit(ask, folder, url) for url in urls]
            with service(program, variables, pass_fds=handed):
                assert [answer.result() for answer in first] == [200, 200]
            waiting = [threads.submit(ask, folder, url) for url in urls]
            time.sleep(0.5)
            assert [answer.done() for answer in waiting] == [False, False]
            with service(program, variables, pass_fds=handed):
                assert [answer.result() for answer in waiting] == [200, 200]


def is_served(address: str) -> bool:
    try:
        return httpx.get(f"https://{address}/", verify=False, timeout=5).status_code == 200  # noqa: S501 - itself
    except httpx.TransportError:
        return False


def ask(folder: Path, url: str) -> int:
    """Send a request once the certificate authority exists, which the first start creates."""
    authority = folder / "certs" / "ca.pem"
    wait_until(authority.exists)
    return httpx.get(url, verify=ssl.create_default_context(cafile=authority), timeout=PATIENCE).status_code
