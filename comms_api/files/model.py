"""Group files as operators and agents see them."""

import hashlib
from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec

from comms_api.agents.configuration import SyncStatus
from comms_api.protocol import ExpectedFile

FILE_BYTES_MAXIMUM = 4 * 2**20
"""Real agents refuse an answer above 8 MB."""

MERGED_BYTES_MAXIMUM = FILE_BYTES_MAXIMUM
"""The most bytes of YAML to merge for an agent."""

COMPARED_BYTES_MAXIMUM = 512 * 1024
"""The largest file of which versions can be compared."""

VERSIONS_KEPT = 20
MERGED = "merged.yml"
"""The name under which agents fetch the merged YAML of their groups; no group file can have it."""

FileName = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=r"\A[A-Za-z0-9_-][A-Za-z0-9._-]*\Z")]


Percent = Annotated[int, msgspec.Meta(ge=1, le=100)]


class GroupFile(msgspec.Struct, frozen=True):
    """One version of a group's file; `staged_percent` is the part of the agents that get it before the others."""

    group: str
    name: str
    version: int
    sha256: str
    size: int
    is_current: bool
    user: str
    created_at: datetime
    staged_percent: int | None


class StoredVersion(msgspec.Struct, frozen=True):
    """The location of a version of a file, which never changes, and its properties that need no loading."""

    group: str
    name: str
    version: int
    sha256: str
    size: int


class Content(msgspec.Struct, frozen=True, weakref=True):
    """The content of a file."""

    sha256: str
    content: bytes


def content_of(content: bytes) -> Content:
    """Return content with its hash."""
    return Content(hashlib.sha256(content).hexdigest(), content)


class NewVersion(msgspec.Struct, frozen=True):
    """A version of a file to store; with `percent`, only this part of the group's agents gets it at first."""

    group: str
    name: str
    content: Content
    user: str
    percent: int | None = None


EMPTY = content_of(b"{}")
"""The answer for `GROUP.yml` of a group without that file: real agents read a map and stop at a 404."""


class AgentDrift(msgspec.Struct, frozen=True):
    """Whether an agent runs its configuration.

    `wanted` is the hash of the files that it should run, and `reported` the hash of the files that it runs. The agent
    has reported this hash, or had fetched these files when it reported a `fetch-config` or `set-group` as done.
    `fetched_at` is the time of its last fetch of a file that was new to it, `reported_at` of its last report.
    """

    agent_id: UUID
    name: str
    status: SyncStatus
    wanted: str
    reported: str | None
    fetched_at: datetime | None
    reported_at: datetime | None


class DriftFilter(msgspec.Struct, frozen=True):
    """The agents of a group to list: those with a status, or those chosen for the staged version of a file."""

    status: SyncStatus | None = None
    staged: str | None = None


class Configuration(msgspec.Struct, frozen=True):
    """The files that an agent should run, in the order of their merge, and whether it does, as in the group's list."""

    agent_id: UUID
    name: str
    files: list[ExpectedFile]
    status: SyncStatus
    in_sync: bool
    wanted: str
    reported: str | None
    fetched_at: datetime | None
    reported_at: datetime | None


class FileDrift(msgspec.Struct, frozen=True):
    """A file of an agent: the version that it should run, and the one that it runs; None if it should or does not."""

    group: str
    name: str
    expected: int | None
    running: int | None


class GroupDrift(msgspec.Struct, frozen=True):
    """The number of agents of a group, by whether they run their configuration.

    On `failed` agents, the last order to apply it has failed; the server repeats the order.
    """

    group: str
    agents: int
    in_sync: int = 0
    pending: int = 0
    failed: int = 0


class Report(msgspec.Struct, frozen=True):
    """The hash of the files that an agent runs."""

    sha256: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class Pushed(msgspec.Struct, frozen=True):
    """The number of agents that will get an order to fetch their files."""

    agents: int


class Rollback(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The version of a file whose content becomes current again, at first for `percent` of the agents."""

    version: int
    percent: Percent | None = None


class Widening(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The larger part of a group's agents that shall get a staged version."""

    percent: Percent


class Stage(msgspec.Struct, frozen=True):
    """A version of a file that only chosen agents of its group get, and how many of them run their configuration."""

    group: str
    name: str
    version: int
    percent: int
    user: str
    created_at: datetime
    agents: int
    in_sync: int = 0
    pending: int = 0
    failed: int = 0
