"""Nodes as they see themselves, and as operators see them."""

from collections.abc import Callable
from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

HEARTBEAT_SECONDS = 2.0
REBALANCE_SECONDS = 60.0
"""How long a node goes on sending agents away after it was asked to."""

FORGOTTEN_AFTER_SECONDS = 3_600.0
"""How long a lost node is shown."""

WantedState = Literal["active", "draining"]
NodeState = Literal["active", "draining", "lost"]


class Place(msgspec.Struct, frozen=True):
    """A node's name, and where it is; `boot_id` tells one start of a machine from others, if the system says it."""

    name: str
    agent_url: str
    management_url: str
    boot_id: str


class Seat(msgspec.Struct, frozen=True):
    """One process of a node; they are numbered from 0."""

    place: Place
    worker: int = 0


class Rival(msgspec.Struct, frozen=True):
    """A live node that has a name already; the times are the database's."""

    agent_url: str
    management_url: str
    seen_at: datetime
    now: datetime


class Polls(msgspec.Struct, frozen=True):
    """The held polls of this process: how many, and ways to end them."""

    held: Callable[[], int]
    send_away: Callable[[int], None]
    drain: Callable[[], None]
    resume: Callable[[], None]


class DutyReport(msgspec.Struct, frozen=True):
    """How long ago a duty succeeded (or its process began), and by how much that is too long."""

    silent_seconds: float = 0.0
    lag_seconds: float = 0.0


class Vitals(msgspec.Struct, frozen=True):
    """What a process tells of itself with each heartbeat."""

    state: WantedState
    polls: int
    requests_per_second: float
    duties: dict[str, DutyReport]
    skew_seconds: float
    key_ids: list[str]


class Wish(msgspec.Struct, frozen=True):
    """What operators want of a process: its state, and how many polls it should be left with; None: any number."""

    state: WantedState
    polls: int | None


class NodeStatus(msgspec.Struct, frozen=True):
    """One process of a node.

    `skew_seconds` is by how much its clock is ahead of the database's; `late` names the duties that lag. `key_ids` and
    `files_sha256` tell which signing keys and group files it serves.
    """

    id: UUID
    name: str
    worker: int
    state: NodeState
    wanted_state: WantedState
    agent_url: str
    management_url: str
    version: str
    started_at: datetime
    seen_at: datetime
    silent_seconds: float
    polls: int
    requests_per_second: float
    lag_seconds: float
    late: list[str]
    duties: dict[str, DutyReport]
    skew_seconds: float
    key_ids: list[str]
    files_sha256: str


class NodeAgents(msgspec.Struct, frozen=True):
    """How many active agents a node was the last to see."""

    node: str
    agents: int


class Wanted(msgspec.Struct, frozen=True):
    """What a node, with so many processes, was asked to be."""

    name: str
    wanted_state: WantedState
    workers: int


class Forgotten(msgspec.Struct, frozen=True):
    """A node that was lost, and how many processes of it were removed."""

    name: str
    workers: int


class Rebalanced(msgspec.Struct, frozen=True):
    """A process that is asked to send agents away until it holds no more than `wanted_polls`."""

    name: str
    worker: int
    polls: int
    wanted_polls: int
