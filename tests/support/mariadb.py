"""Run Debian's MariaDB for tests."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.balancers import install
from support.ports import free_ports
from support.waiting import PATIENCE, wait_until

USER, PASSWORD = "agents", "the password of agents"
PROGRAMS = "/usr/bin:/bin:/usr/sbin:/sbin"


class MariaDB:
    """A running server with a database `agents`; `execute` runs statements as root."""

    def __init__(self, folder: Path, port: int) -> None:
        self._socket = folder / "mariadb.sock"
        self.port = port

    def execute(self, *statements: str) -> str:
        """Run statements, and return what the client prints."""
        return self._run(*statements, check=True).stdout

    def answers(self) -> bool:
        return self._run("SELECT 1").returncode == 0

    def _run(self, *statements: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        command = ["mariadb", "--no-defaults", "-u", "root", "-S", str(self._socket), "-e", ";".join(statements)]
        return subprocess.run(
            command, capture_output=True, text=True, check=check, timeout=PATIENCE, env={"PATH": PROGRAMS}
        )


@contextmanager
def running_mariadb() -> Iterator[MariaDB]:
    """Run a server for the block; root runs it as `nobody`."""
    program = install("mariadbd")
    folder = Path(tempfile.mkdtemp(prefix="comms-api-test-mariadb-"))  # its setup fails in a path with spaces
    folder.chmod(0o777)
    [port] = free_ports(1)
    options = ["--no-defaults", f"--datadir={folder}/data", "--user=nobody"]
    setup = ["mariadb-install-db", *options, "--auth-root-authentication-method=normal", "--skip-test-db"]
    subprocess.run(setup, capture_output=True, check=True, timeout=PATIENCE, env={"PATH": PROGRAMS})
    server = MariaDB(folder, port)
    listen = [f"--socket={folder}/mariadb.sock", f"--port={port}", "--bind-address=127.0.0.1"]
    with (folder / "log").open("wb") as log, subprocess.Popen([program, *options, *listen], stderr=log) as process:
        try:
            wait_until(server.answers, says=(folder / "log").read_text)
            server.execute(
                "CREATE DATABASE agents CHARACTER SET utf8mb4",
                f"CREATE USER '{USER}'@'%' IDENTIFIED BY '{PASSWORD}'",
                f"GRANT ALL ON agents.* TO '{USER}'@'%'",
            )
            yield server
        finally:
            process.kill()
            process.wait()
            shutil.rmtree(folder)
