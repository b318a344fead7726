"""Commands and orders, as they are submitted and as operators see them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from comms_api.agents.model import AgentFilter
from comms_api.commands.rollout import Rollout
from comms_api.printable import WITHOUT_NUL
from comms_api.protocol import Action, CommandSource, Order, OrderResult, OrderStatus, TargetType, Text

ARGS_BYTES_MAXIMUM = 64 * 1024
PRIORITY_MAXIMUM = 100
TARGETS_MAXIMUM = 10_000
USER_CHARACTERS_MAXIMUM = 1_024
"""A service may name the user it acts for by any text."""
MESSAGE_CHARACTERS_MAXIMUM = 8 * 1024
DATA_BYTES_MAXIMUM = 256 * 1024

ORDER_IDS_SHOWN = 10
RECIPIENTS_SHOWN = 1_000
FAILURES_SHOWN = 10

TargetIds = Annotated[list[Text], Meta(min_length=1, max_length=TARGETS_MAXIMUM)]


class CommandTarget(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whom a command is for: agents, groups, all agents, or a service; `filter` narrows agents down."""

    type: TargetType
    id: Text | TargetIds = ""
    filter: AgentFilter | None = None

    @property
    def ids(self) -> list[str]:
        """The names, one or several; none for all."""
        if isinstance(self.id, list):
            return self.id
        return [] if self.type == "all" else [self.id]


class NewCommand(msgspec.Struct, frozen=True):
    """A command as it is submitted; `timeout` is in seconds and bounds the life of its orders from their release."""

    source: CommandSource
    target: CommandTarget
    action: Action
    timeout: Annotated[float, Meta(gt=0)]
    user: Annotated[str, Meta(max_length=USER_CHARACTERS_MAXIMUM, pattern=WITHOUT_NUL)] | None = None
    priority: Annotated[int, Meta(ge=-PRIORITY_MAXIMUM, le=PRIORITY_MAXIMUM)] = 0
    start_at: Annotated[datetime, Meta(tz=True)] | None = None
    rollout: Rollout | None = None


class Submitted(msgspec.Struct, frozen=True):
    """What one submitted command has become."""

    request_id: UUID
    orders: int
    order_ids: list[UUID]
    url: str


class SubmittedCommands(msgspec.Struct, frozen=True):
    """The answer to a submission, command by command; `order_ids` are the first of each."""

    commands: list[Submitted]


class Rehearsed(msgspec.Struct, frozen=True):
    """Who would get a command; `recipients` are the first of them, agents or the one service."""

    orders: int
    recipients: list[UUID]


class RehearsedCommands(msgspec.Struct, frozen=True):
    """The answer to a dry run, command by command."""

    commands: list[Rehearsed]


class DocumentId(msgspec.Struct, frozen=True):
    """An order's id in the form of the command manager plugin."""

    id: UUID = msgspec.field(name="_id")


class PluginAnswer(msgspec.Struct, frozen=True):
    """The answer to a submission in the form of the command manager plugin, with every order."""

    orders: list[DocumentId]
    documents: list[DocumentId] = msgspec.field(name="_documents")
    index: str = msgspec.field(name="_index", default="wazuh-commands")
    result: str = "OK"


Phase = Literal["released", "rolling", "paused", "stopped", "cancelled"]
"""Which orders of a command may go out: all; a step at a time; none, as an operator wishes; none, as too many failed;
none any more."""


class Command(msgspec.Struct, frozen=True):
    """A submitted command."""

    request_id: UUID
    source: str
    user: str
    target: CommandTarget
    action: Action
    timeout: float
    priority: int
    rollout: Rollout | None
    retry_of: UUID | None
    phase: Phase
    phase_reason: str
    starts_at: datetime
    created_at: datetime
    expires_at: datetime


class Failure(msgspec.Struct, frozen=True):
    """An order that failed, and how."""

    order_id: UUID
    agent_id: UUID
    code: int | None
    message: str | None
    finished_at: datetime


class Counts(msgspec.Struct, frozen=True):
    """How many orders of a command are in each status; `held` are those of `pending` that may not go out yet."""

    total: int
    pending: int = 0
    held: int = 0
    sent: int = 0
    success: int = 0
    failure: int = 0
    cancelled: int = 0

    @property
    def is_done(self) -> bool:
        """Whether every order has ended."""
        return self.pending + self.sent == 0


class CommandProgress(msgspec.Struct, frozen=True):
    """A command, how many of its orders are in each status, and the latest failures."""

    command: Command
    orders: Counts
    is_done: bool
    failures: list[Failure]


class Cancelled(msgspec.Struct, frozen=True):
    """How many open orders a cancellation has ended, and how many agents that hold one will be told."""

    cancelled: int
    told: int


class Held(msgspec.Struct, frozen=True):
    """What a pause or a resumption did: the command's phase now, and how many orders it moved."""

    phase: Phase
    orders: int


class Retry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which orders of a command to repeat, and how long the new ones have; by default as long as the old."""

    statuses: Annotated[tuple[Literal["failure", "cancelled"], ...], Meta(min_length=1)] = ("failure",)
    timeout: Annotated[float, Meta(gt=0)] | None = None


class StoredResult(msgspec.Struct, frozen=True):
    """How an order ended."""

    code: int | None
    message: str | None
    data: msgspec.Raw | None


class StoredOrder(msgspec.Struct, frozen=True):
    """An order as operators see it: what its recipient gets, and what became of it.

    `agent_id` is None for the order of a service, which `target` names.
    """

    order_id: UUID
    request_id: UUID
    agent_id: UUID | None
    agent_groups: list[str]
    source: str
    user: str
    target: CommandTarget
    action: Action
    timeout: float
    priority: int
    status: OrderStatus
    attempt: int
    result: StoredResult
    created_at: datetime
    expires_at: datetime
    delivery_timestamp: datetime
    sent_at: datetime | None
    finished_at: datetime | None


class OrderFilter(msgspec.Struct, frozen=True):
    """Which orders to list; an empty field asks for nothing."""

    request_id: UUID | None = None
    agent_id: UUID | None = None
    status: OrderStatus | None = None
    source: str | None = None
    user: str | None = None
    action: str | None = None
    targets: Sequence[str] = ()
    """The command's target has one of these ids."""

    since: datetime | None = None
    until: datetime | None = None


class Claimed(msgspec.Struct, frozen=True):
    """An order leased to its agent, in its `attempt`-th offer."""

    agent_id: UUID
    attempt: int
    order: Order


class Report(msgspec.Struct, frozen=True):
    """One agent's report about one order, `index` in its batch."""

    agent_id: UUID
    index: int
    order: OrderResult
