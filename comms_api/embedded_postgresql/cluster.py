"""The PostgreSQL that comes with us, for operators who name none: its cluster, settings, users and end.

A home holds the cluster, its settings and three locks, which the kernel drops when their holders die:

- `start.lock`   held by whoever starts or stops the server, so one process at a time decides;
- `users.lock`   shared by every process that uses the server: who can have it alone is the last one out;
- `server.lock`  inherited by the server itself, so it is held exactly as long as one of its processes lives.
  The number in `postmaster.pid` may be another process after a crash or a reboot; this lock cannot lie.

The server listens on one Unix socket and lets in two users of the operating system: the one that starts it
and the one it runs as. There is no password to lose.
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
    "shared_buffers": "128MB",
    "wal_compression": "pglz",
    "synchronous_commit": "on",
    # `orders` turns over all the time, and until dead rows are vacuumed it takes new pages.
    "autovacuum_naptime": "15s",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    # A ring of seven files; no statements, because they carry what agents send.
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
    """Return a value as PostgreSQL's configuration file spells it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def last_lines(text: str) -> str:
    """Return the end of a log, short enough for an error's sentence."""
    return "\n".join(text.splitlines()[-LOG_TAIL_LINES:])[-LOG_TAIL_BYTES:]


@dataclass(frozen=True)
class Cluster:
    """One data directory's PostgreSQL: made once, then started and stopped.

    Callers of `bring_up` and `stop` hold `start.lock`, or know that they are alone.
    """

    home: Path
    account: Account
    programs: Path
    durable: bool = True

    @property
    def path(self) -> Path:
        """Return PostgreSQL's own data directory."""
        return self.home / "cluster"

    @property
    def socket_dir(self) -> Path:
        """Return the folder of the socket, as clients name it for a host."""
        return (self.home / "socket").resolve()

    @property
    def url(self) -> str:
        """Return SQLAlchemy's URL, complete so that PG… environment variables have no effect."""
        query = {"host": str(self.socket_dir), "port": str(PORT), "passfile": str(self.home / "no-passwords")}
        return str(URL.create("postgresql+asyncpg", ROLE, database=DATABASE, query=query))

    def bring_up(self) -> None:
        """Make the cluster if there is none, start the server if it does not run, and wait until it answers.

        A server that a killed process left running is used as it is.
        """
        if not self.path.exists():
            self._create()
        self._start()

    def revive(self) -> None:
        """Start the server again if it is gone; a data directory that is gone as well is not made anew.

        Every process that uses the server may do this at any time. What another one is starting or stopping just now
        is left to it. Raises ConfigurationError.
        """
        with failures_named(self.home), open_lock(self.home / "start.lock") as lock:
            if try_lock(lock) and not self.is_running():
                self._start()
                logger.warning("the embedded PostgreSQL in %s was gone and is started again", self.home)

    def _start(self) -> None:
        self._refuse_other_version()
        if not self.is_running():
            self._launch()
        answered = eventually(lambda: self._is_ready() or not self.is_running())
        if not answered or not self._is_ready():
            reason = "did not start" if answered else f"is not ready after {PATIENCE_SECONDS:.0f} s"
            raise ConfigurationError(f"the embedded PostgreSQL {reason}:\n{self._log_tail()}")

    def stop(self, mode: str = "fast") -> None:
        """End the server's sessions and the server; with `immediate`, as a crash would."""
        self._run("pg_ctl", "stop", "--no-wait", "--mode", mode, "--pgdata", self.path)
        if not eventually(lambda: not self.is_running()):
            logger.warning("the embedded PostgreSQL in %s is still shutting down", self.home)
        elif (self.home / "socket").is_symlink():
            with suppress(OSError):  # not empty: the server did not end well, and the next one needs the folder
                self.socket_dir.rmdir()

    def is_running(self) -> bool:
        """Say whether any process of the server lives."""
        with open_lock(self.home / "server.lock") as lock:
            return not try_lock(lock)

    def _is_ready(self) -> bool:
        host = str(self.socket_dir)
        ready = self._run("pg_isready", "-h", host, "-p", str(PORT), "-U", ROLE, "-d", DATABASE)
        return ready.returncode == 0

    def _run(self, program: str, *arguments: str | Path) -> CompletedProcess[str]:
        return self.account.run(self.programs / program, *arguments)

    def _create(self) -> None:
        """Make the cluster under another name and rename it, so that one that exists is complete.

        The programs inherit the lock: while those of a killed process still write, the next one waits.
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
            said = last_lines(done.stdout)
            raise ConfigurationError(f"cannot make a database in {self.home}: {program}:\n{said}")

    def _sync_home(self) -> None:
        """Make the rename last: a cluster that lost its name in a power cut would be made anew."""
        folder = os.open(self.home, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _refuse_other_version(self) -> None:
        ours = metadata.version(WHEEL).split(".")[0]
        theirs = (self.path / "PG_VERSION").read_text().strip()
        if theirs != ours:
            raise ConfigurationError(
                f"{self.path} was made by PostgreSQL {theirs} and this is {ours}: dump it with pg_dump "
                f"from the {WHEEL} {theirs} wheel, move the folder away, start, and restore the dump"
            )

    def _launch(self) -> None:
        """Let the shell start the server and leave, so that it is nobody's child and outlives us."""
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

        PostgreSQL refuses to start if a process has that number. After a crash, a reboot or a copy of the data
        directory, that is another program or the server of the original.
        """
        for pid_file in (self.path / "postmaster.pid", self.socket_dir / f".s.PGSQL.{PORT}.lock"):
            with suppress(FileNotFoundError, IndexError):
                if not works_in(pid_file.read_text().split()[0], self.path):
                    pid_file.unlink()

    def _write_settings(self) -> None:
        """Write the server's three files where its user cannot; ALTER SYSTEM remains the operator's."""
        starter = pwd.getpwuid(os.geteuid()).pw_name
        names = sorted({starter, self.account.name})
        self._write("pg_hba.conf", f"local all {ROLE} peer map=owners\n")
        self._write("pg_ident.conf", "".join(f'owners "{name}" {ROLE}\n' for name in names))
        settings = SETTINGS | {
            # A list, so a path is quoted as a name inside the quoted value.
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
        path.chmod(0o644)  # whatever our umask is, the server reads it

    def _log_tail(self) -> str:
        """Return the end of what the server said last, before or after it had a log of its own."""
        logs = [*(self.home / "log").glob("*.log"), self.home / "start.log"]
        newest = max(logs, key=lambda log: log.stat().st_mtime_ns)
        return f"{last_lines(newest.read_text(errors='replace'))}\n(from {newest})"


@contextmanager
def failures_named(data_dir: Path) -> Iterator[None]:
    """Turn what the system refuses into the operator's error."""
    try:
        yield
    except (OSError, TimeoutExpired) as error:
        raise ConfigurationError(f"cannot keep a database in {data_dir}: {error}") from error


@contextmanager
def embedded_postgres(
    data_dir: Path, *, run_as: str = "nobody", durable: bool = True, shared_dir: Path = SHARED_DIR
) -> Iterator[Cluster]:
    """Run a data directory's PostgreSQL for the block, together with every other process that uses it.

    The first one in starts the server, the last one out stops it. `run_as` matters to root alone. Without
    `durable` a power cut may lose the cluster: for tests. Raises ConfigurationError.
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
