"""Commands, as submitted and as operators see them."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from comms_api.commands.rollout import Rollout
from comms_api.orders.model import PRIORITY_MAXIMUM, CommandTarget, Counts, Failure, FailureGroup
from comms_api.protocol import Action, CommandSource, Signed
from comms_api.text.printable import WITHOUT_NUL

ARGS_BYTES_MAXIMUM = 64 * 1024
USER_CHARACTERS_MAXIMUM = 1_024
"""The user that a service acts for may be any text."""

ORDER_IDS_SHOWN = 10
RECIPIENTS_SHOWN = 1_000
FAILURES_SHOWN = 10
Offline = Literal["wait", "skip"]
"""Whether agents that are not active at the submission get an order, which waits for them, or none."""


class NewCommand(msgspec.Struct, frozen=True):
    """A submitted command; `timeout` is in seconds and bounds the life of its orders from their release."""

    source: CommandSource
    target: CommandTarget
    action: Action
    timeout: Annotated[float, Meta(gt=0)]
    user: Annotated[str, Meta(max_length=USER_CHARACTERS_MAXIMUM, pattern=WITHOUT_NUL)] | None = None
    priority: Annotated[int, Meta(ge=-PRIORITY_MAXIMUM, le=PRIORITY_MAXIMUM)] = 0
    start_at: Annotated[datetime, Meta(tz=True)] | None = None
    rollout: Rollout | None = None
    offline: Offline = "wait"
    continuous: bool = False
    until: Annotated[datetime, Meta(tz=True)] | None = None
    """The end of a continuous command; until then, agents that match later get their order too."""

    signed: Signed | None = None
    """An operator's signature; target and action are those of its payload."""


class NewCommands(msgspec.Struct, frozen=True):
    """Several commands in one submission."""

    commands: list[NewCommand]


class Submitted(msgspec.Struct, frozen=True):
    """The result of one submitted command; `skipped` is the number of offline agents that got no order."""

    request_id: UUID
    orders: int
    order_ids: list[UUID]
    url: str
    skipped: int = 0


class SubmittedCommands(msgspec.Struct, frozen=True):
    """The answer to a submission, command by command; `order_ids` are the first of each."""

    commands: list[Submitted]


class Rehearsed(msgspec.Struct, frozen=True):
    """The number of recipients of a command, and the first of them: agents or the one service."""

    orders: int
    recipients: list[UUID]
    skipped: int = 0


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
"""The orders of a command that may be offered: all, some at a time (`rolling`), or none (paused by an operator, stopped
after too many failures, or cancelled)."""


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
    offline: Offline
    skipped: int
    continuous: bool
    until: datetime | None
    signed: Signed | None
    retry_of: UUID | None
    phase: Phase
    phase_reason: str
    starts_at: datetime
    created_at: datetime
    expires_at: datetime


class CommandProgress(msgspec.Struct, frozen=True):
    """A command, how many of its orders are in each status, and the latest failures."""

    command: Command
    orders: Counts
    is_done: bool
    failures: list[Failure]


class CommandSummary(msgspec.Struct, frozen=True):
    """A command, how many of its orders are in each status, how many ended lately, and its failures by message."""

    command: Command
    orders: Counts
    ended_per_minute: int
    failures: list[FailureGroup]


class Cancelled(msgspec.Struct, frozen=True):
    """The number of open orders that a cancellation has ended, and of agents that it will notify (`told`)."""

    cancelled: int
    told: int


class Held(msgspec.Struct, frozen=True):
    """The result of a pause or a resumption: the command's phase, and the number of orders held or released."""

    phase: Phase
    orders: int


class Retry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The statuses of the orders to repeat, and the timeout of the new orders, by default that of the old ones."""

    statuses: Annotated[tuple[Literal["failure", "cancelled"], ...], Meta(min_length=1)] = ("failure",)
    timeout: Annotated[float, Meta(gt=0)] | None = None
