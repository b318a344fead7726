"""Commands and orders, as they are submitted and as operators see them."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec

from comms_api.protocol import Action, CommandSource, Order, OrderResult, OrderStatus, Target

ARGS_BYTES_MAXIMUM = 64 * 1024
ORDERS_PER_ANSWER_MAXIMUM = 100
"""With the size of args this keeps an answer below the 8 MB that a real agent refuses."""

MESSAGE_CHARACTERS_MAXIMUM = 8 * 1024
DATA_BYTES_MAXIMUM = 256 * 1024

ORDER_IDS_SHOWN = 10


class NewCommand(msgspec.Struct, frozen=True):
    """A command as it is submitted; `timeout` is in seconds and bounds the life of its orders."""

    source: CommandSource
    target: Target
    action: Action
    timeout: Annotated[float, msgspec.Meta(gt=0)]
    user: Annotated[str, msgspec.Meta(max_length=128)] | None = None


class Submitted(msgspec.Struct, frozen=True):
    """What one submitted command has become."""

    request_id: UUID
    orders: int
    order_ids: list[UUID]
    url: str


class SubmittedCommands(msgspec.Struct, frozen=True):
    """The answer to a submission, command by command; `order_ids` are the first of each."""

    commands: list[Submitted]


class DocumentId(msgspec.Struct, frozen=True):
    """An order's id in the form of the command manager plugin."""

    id: UUID = msgspec.field(name="_id")


class PluginAnswer(msgspec.Struct, frozen=True):
    """The answer to a submission in the form of the command manager plugin, with every order."""

    orders: list[DocumentId]
    documents: list[DocumentId] = msgspec.field(name="_documents")
    index: str = msgspec.field(name="_index", default="wazuh-commands")
    result: str = "OK"


class Command(msgspec.Struct, frozen=True):
    """A submitted command."""

    request_id: UUID
    source: str
    user: str
    target: Target
    action: Action
    timeout: float
    created_at: datetime
    expires_at: datetime


class CommandProgress(msgspec.Struct, frozen=True):
    """A command and how many of its orders are in each status."""

    command: Command
    orders: dict[OrderStatus, int]


class Cancelled(msgspec.Struct, frozen=True):
    """How many open orders a cancellation has ended."""

    cancelled: int


class StoredResult(msgspec.Struct, frozen=True):
    """How an order ended."""

    code: int | None
    message: str | None
    data: msgspec.Raw | None


class StoredOrder(msgspec.Struct, frozen=True):
    """An order as operators see it: what the agent gets, and what became of it."""

    order_id: UUID
    request_id: UUID
    agent_id: UUID
    agent_groups: list[str]
    source: str
    user: str
    target: Target
    action: Action
    timeout: float
    status: OrderStatus
    attempt: int
    result: StoredResult
    created_at: datetime
    expires_at: datetime
    sent_at: datetime | None
    finished_at: datetime | None


class OrderFilter(msgspec.Struct, frozen=True):
    """Which orders to list; an empty field asks for nothing."""

    request_id: UUID | None = None
    agent_id: UUID | None = None
    status: OrderStatus | None = None


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
