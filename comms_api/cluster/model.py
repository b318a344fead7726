"""Nodes, their processes and heartbeats, as operators see and control them."""

from collections.abc import Callable
from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

from comms_api.duties.health import DutyReport

HEARTBEAT_SECONDS = 2.0
SKEW_SECONDS_MAXIMUM = 1.0
"""A clock that differs by more from the database's is reported."""

REBALANCE_SECONDS = 60.0
"""A crowded process redirects agents for this long after an operator's request."""

FORGOTTEN_AFTER_SECONDS = 3_600.0
"""A lost node is listed for this long."""

WantedState = Literal["active", "draining"]
NodeState = Literal["active", "draining", "lost"]


class NodeAddress(msgspec.Struct, frozen=True):
    """A node's name and URLs. `boot_id` identifies one boot of its machine, or is empty if the system reports none."""

    name: str
    agent_url: str
    management_url: str
    boot_id: str


class NodeProcess(msgspec.Struct, frozen=True):
    """One process of a node; `worker` numbers the processes from 0.

    `connections_maximum` is the number of connections of agents that the process has room for.
    """

    address: NodeAddress
    worker: int = 0
    connections_maximum: int = 0
    secret_fingerprint: str = ""


class NameHolder(msgspec.Struct, frozen=True):
    """The live node that holds a name; `now` is the database's time at which it was found."""

    agent_url: str
    management_url: str
    seen_at: datetime
    now: datetime


class Polls(msgspec.Struct, frozen=True):
    """The held polls of this process: count them, redirect some, drain or resume.

    `redirect` ends that many polls, so that the load balancer sends their agents to other nodes.
    """

    held: Callable[[], int]
    redirect: Callable[[int], None]
    drain: Callable[[], None]
    resume: Callable[[], None]


class Heartbeat(msgspec.Struct, frozen=True):
    """The status that a process reports every `HEARTBEAT_SECONDS`."""

    state: WantedState
    polls: int
    requests_per_second: float
    duties: dict[str, DutyReport]
    skew_seconds: float
    key_ids: list[str]


class Directive(msgspec.Struct, frozen=True):
    """The state that operators requested of a process, and the most polls it should hold; None: no limit."""

    state: WantedState
    polls: int | None


class NodeStatus(msgspec.Struct, frozen=True):
    """One process of a node.

    `skew_seconds` is how far its clock is ahead of the database's. `late` lists the duties that lag. `key_ids` and
    `files_sha256` identify the signing keys and the group files that it serves. `connections_maximum` is the number of
    connections of agents that it has room for. `secret_fingerprint` identifies the node secret; it is empty, as
    `connections_maximum` is 0, for a process of an older release.
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
    connections_maximum: int
    secret_fingerprint: str


class NodeAgents(msgspec.Struct, frozen=True):
    """The number of active agents that were last seen by a node."""

    node: str
    agents: int


class RequestedState(msgspec.Struct, frozen=True):
    """The state that an operator requested of a node, and the number of its processes."""

    name: str
    wanted_state: WantedState
    workers: int


class ForgottenNode(msgspec.Struct, frozen=True):
    """A lost node, and how many of its processes were removed from the list."""

    name: str
    workers: int


class RebalancedProcess(msgspec.Struct, frozen=True):
    """A process that redirects agents until it holds at most `wanted_polls` polls."""

    name: str
    worker: int
    polls: int
    wanted_polls: int
