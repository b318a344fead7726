"""Run a PostgreSQL server, or a primary and its synchronous standby, which a test may kill, start and promote."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from comms_api.embedded_postgresql.home import (
    Account,
    find_programs,
    make_server_directory,
    server_account,
)
from support.ports import free_ports
from support.waiting import PATIENCE, pause, wait_until

USER = DATABASE = "comms_api"
INITDB = ("--username", USER, "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync")
SETTINGS = "-c listen_addresses=127.0.0.1 -c unix_socket_directories= -c wal_level=replica -c max_connections=60"


@dataclass
class Postgres:
    """One server, in a folder that its user may enter."""

    folder: Path
    account: Account
    programs: Path
    port: int

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"postgresql://{USER}@{self.address}/{DATABASE}"

    def run(self, program: str, *arguments: str | Path) -> None:
        done = self.account.run(self.programs / program, *arguments)
        assert done.returncode == 0, done.stdout

    def start(self) -> None:
        options = f"{SETTINGS} -c port={self.port}"
        log = self.folder.with_suffix(".log")
        log.touch()
        log.chmod(0o666)
        # The server would keep a pipe open, so its output goes to a file.
        self.run("pg_ctl", "start", "--wait", "--silent", "-D", self.folder, "-l", log, "-o", options)

    def stop(self) -> None:
        self.run("pg_ctl", "stop", "--wait", "--silent", "--mode", "fast", "-D", self.folder)

    @property
    def is_replicated(self) -> bool:
        return self.query("SELECT sync_state FROM pg_stat_replication") == [("sync",)]

    def query(self, statement: str, *arguments: object, database: str = DATABASE) -> list[Any]:
        async def fetch() -> list[Any]:
            connection = await asyncpg.connect(self.url, database=database)
            try:
                return await connection.fetch(statement, *arguments)
            finally:
                await connection.close()

        return asyncio.run(fetch())

    def promote(self) -> None:
        self.run("pg_ctl", "promote", "--wait", "--silent", "-D", self.folder)

    def kill(self) -> None:
        """Kill every process of the server, as a power failure would."""
        kill_postgres(self.folder)


def kill_postgres(cluster: Path) -> None:
    """Kill every process of the server of a data directory, if it is running."""
    with suppress(FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
        postmaster = psutil.Process(int((cluster / "postmaster.pid").read_text().split()[0]))
        pause(postmaster.pid)  # so that it starts no process while its children are killed
        processes = [*postmaster.children(recursive=True), postmaster]
        for process in processes:
            process.kill()
        psutil.wait_procs(processes, PATIENCE)  # the next server needs their shared memory


@contextmanager
def running_postgres(home: Path) -> Iterator[Postgres]:
    """Run a server with an empty database for the block."""
    account = server_account("nobody")
    make_server_directory(home, account)
    home.chmod(0o755)
    [port] = free_ports(1)
    server = Postgres(home / "one", account, find_programs(account), port)
    try:
        server.run("initdb", *INITDB, "-D", server.folder)
        server.start()
        server.query(f"CREATE DATABASE {DATABASE}", database="postgres")
        yield server
    finally:
        server.kill()


@contextmanager
def primary_and_standby(home: Path) -> Iterator[tuple[Postgres, Postgres]]:
    """Run both for the block; a commit returns when the standby has it on disk."""
    with running_postgres(home) as primary:
        [port] = free_ports(1)
        standby = replace(primary, folder=home / "two", port=port)
        source = f"host=127.0.0.1 port={primary.port} user={USER} application_name=standby"
        primary.run("pg_basebackup", "-d", source, "-D", standby.folder, "-R", "-c", "fast", "-C", "-S", "standby")
        try:
            standby.start()
            # Set this after the backup: otherwise the promoted standby would wait for itself.
            primary.query("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
            primary.query("SELECT pg_reload_conf()")
            wait_until(lambda: primary.is_replicated)
            yield primary, standby
        finally:
            standby.kill()
