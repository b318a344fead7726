"""Find which versions of its files an agent runs, from the one hash that the server knows.

The hash is of the set of files as it was at some time, so the sets of earlier times are hashed and compared.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

import msgspec
from sqlalchemy import select

from comms_api.agents.configuration import IS_SERVED_TO_MEMBER, NO_FILES_SHA256
from comms_api.database.connection import Connection
from comms_api.database.schema import group_files, group_members
from comms_api.files.model import FileDrift

VERSIONS_MAXIMUM = 500
"""The newest versions of an agent's files that are considered."""

MOMENTS_MAXIMUM = 20
"""The latest changes before each of which a set of files is hashed."""


class KnownVersion(msgspec.Struct, frozen=True):
    """A version of a file of one of the agent's groups, and whether the agent should run it."""

    group: str
    name: str
    version: int
    sha256: str
    created_at: datetime
    is_served: bool

    @property
    def file(self) -> tuple[str, str]:
        """The key of the file."""
        return self.group, self.name


FileSet: TypeAlias = Mapping[tuple[str, str], KnownVersion]
"""The version of each file."""


async def list_known_versions(connection: Connection, agent_id: UUID) -> list[KnownVersion]:
    """Return the newest versions of the files of an agent's groups, the newest first."""
    columns = (
        *(group_files.c.group_name, group_files.c.file_name, group_files.c.version, group_files.c.sha256),
        *(group_files.c.created_at, IS_SERVED_TO_MEMBER),
    )
    joined = group_files.join(group_members, group_members.c.group_name == group_files.c.group_name)
    statement = select(*columns).select_from(joined).where(group_members.c.agent_id == agent_id)
    newest = statement.order_by(group_files.c.created_at.desc(), *columns[:3]).limit(VERSIONS_MAXIMUM)
    return [KnownVersion(*row) for row in await connection.execute(newest)]


def compare_files(versions: Sequence[KnownVersion], running: str | None) -> list[FileDrift] | None:
    """Return the files that an agent should run with the versions that it runs; None if these are unknown.

    `versions` begin with the newest; `running` is the hash of the set that the agent runs, None for no files.
    """
    expected = {version.file: version for version in versions if version.is_served}
    found: FileSet | None = {}
    if running not in {None, NO_FILES_SHA256}:
        found = next((files for files in _sets(versions, expected) if _hash(files.values()) == running), None)
    if found is None:
        return None
    return [
        FileDrift(*file, _number(expected.get(file)), _number(found.get(file))) for file in sorted({*expected, *found})
    ]


def _number(version: KnownVersion | None) -> int | None:
    return version.version if version is not None else None


def _sets(versions: Sequence[KnownVersion], expected: FileSet) -> Iterator[FileSet]:
    """Yield the sets of files that the agent may have fetched: the current one, and those of earlier times.

    The time of a deletion is unknown, so each earlier set is tried with and without the deleted files.
    """
    yield expected
    for moment in sorted({version.created_at for version in versions}, reverse=True)[:MOMENTS_MAXIMUM]:
        # From the oldest to the newest, so that the newest version before the moment wins.
        before = {version.file: version for version in reversed(versions) if version.created_at < moment}
        yield before
        yield {file: version for file, version in before.items() if file in expected}


def _hash(files: Iterable[KnownVersion]) -> str:
    ordered = sorted(files, key=lambda version: (version.group.encode(), version.name.encode()))
    lines = "".join(f"{version.group}/{version.name} {version.sha256}\n" for version in ordered)
    return hashlib.sha256(lines.encode()).hexdigest()
