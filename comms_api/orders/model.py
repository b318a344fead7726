"""Orders, as their recipients get and report them, and as operators see them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal, TypeAlias
from uuid import UUID

import msgspec
from msgspec import Meta

from comms_api.agents.model import AgentFilter
from comms_api.protocol import (
    RESULT_IN_PROGRESS,
    Action,
    Order,
    OrderResult,
    OrderStatus,
    ReportOutcome,
    Signed,
    TargetType,
    Text,
)

PRIORITY_MAXIMUM = 100
TARGETS_MAXIMUM = 10_000
MESSAGE_CHARACTERS_MAXIMUM = 8 * 1024
DATA_BYTES_MAXIMUM = 256 * 1024
TargetIds = Annotated[list[Text], Meta(min_length=1, max_length=TARGETS_MAXIMUM)]


CommandTargetType = Literal[TargetType, "selection"]
"""The kind of a target; agents that get an order because of a selection see the type `agent`."""


class CommandTarget(msgspec.Struct, frozen=True, omit_defaults=True):
    """The recipients of a command: agents, groups, all agents, or a service; `filter` narrows agents down.

    A target of the type `selection` names a selection of the submitting user, which has at most 100,000 agents.
    """

    type: CommandTargetType
    id: Text | TargetIds = ""
    filter: AgentFilter | None = None

    @property
    def ids(self) -> list[str]:
        """The names, one or several; none for all."""
        if isinstance(self.id, list):
            return self.id
        return [] if self.type == "all" else [self.id]


FailureOutcome = Literal["rejected", "expired_before_delivery", "expired_after_delivery"]
"""The stored outcomes of failed orders; any other order with the status `failure` is `failed`."""

OrderOutcome = Literal["success", "failed", FailureOutcome, "cancelled"]
"""The outcomes of ended orders. An agent rejects an order that it does not start, such as one of an unknown action."""

OutcomeFilter = Literal[OrderOutcome, "expired"]
"""An outcome, or both outcomes of expired orders."""


class Failure(msgspec.Struct, frozen=True):
    """A failed order and its result."""

    order_id: UUID
    agent_id: UUID
    outcome: OrderOutcome
    code: int | None
    message: str | None
    finished_at: datetime


class FailureGroup(msgspec.Struct, frozen=True):
    """Failed orders of a command that have the same outcome, code and message, and the agents of some of them."""

    outcome: OrderOutcome
    code: int | None
    message: str
    orders: int
    agents: list[UUID]


class Counts(msgspec.Struct, frozen=True):
    """The number of a command's orders in each status.

    `held` counts the `pending` orders that must not be offered yet. `failure` is the sum of `failed`, `rejected` and
    the two counts of expired orders.
    """

    total: int
    pending: int = 0
    held: int = 0
    sent: int = 0
    success: int = 0
    failure: int = 0
    cancelled: int = 0
    failed: int = 0
    rejected: int = 0
    expired_before_delivery: int = 0
    expired_after_delivery: int = 0

    @property
    def is_done(self) -> bool:
        """Whether every order has ended."""
        return self.pending + self.sent == 0


class RecentCounts(msgspec.Struct, frozen=True):
    """The number of open orders, and of ended orders that were created lately, each at most `limit`."""

    limit: int
    pending: int
    sent: int
    success: int
    failure: int
    cancelled: int


class StoredResult(msgspec.Struct, frozen=True):
    """The result of an ended order."""

    code: int | None
    message: str | None
    data: msgspec.Raw
    """`null` if the agent reported none."""


class StoredOrder(msgspec.Struct, frozen=True):
    """An order as operators see it: its content and its result.

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
    outcome: OrderOutcome | None
    attempt: int
    result: StoredResult
    created_at: datetime
    expires_at: datetime
    delivery_timestamp: datetime
    sent_at: datetime | None
    finished_at: datetime | None


class OrderFilter(msgspec.Struct, frozen=True):
    """Selects orders; an empty field matches every order."""

    request_id: UUID | None = None
    agent_id: UUID | None = None
    status: OrderStatus | None = None
    source: str | None = None
    user: str | None = None
    action: str | None = None
    targets: Sequence[str] = ()
    """The command's target has one of these ids."""

    outcome: OutcomeFilter | None = None
    code: int | None = None
    service: str | None = None
    """The service that submitted the command."""
    continuous: bool = False
    """Only commands that still give later agents an order."""

    @property
    def is_sparse(self) -> bool:
        """Whether it may skip many orders of an index that it reads."""
        others = (self.status, self.outcome, self.code, self.source, self.user, self.action, self.service)
        return bool(self.targets) or any(value is not None for value in others)


ORDER_BYTES = 2_048
"""The maximum size of an order in an answer, without its args and its user: names and ids are bounded."""


def order_bytes(args: bytes, user: str, signed: Signed | None = None) -> int:
    """Return about how many bytes an order takes in an answer to a poll."""
    return ORDER_BYTES + len(args) + len(user.encode()) + (len(signed.payload) if signed else 0)


class Claimed(msgspec.Struct, frozen=True):
    """An order leased to its agent, in its `attempt`-th offer."""

    agent_id: UUID
    attempt: int
    order: Order
    traceparent: str | None = None
    """The span that submitted the command."""


OrderKey: TypeAlias = tuple[UUID, UUID]
"""The id of an order and of its recipient."""


class CommandTrace(msgspec.Struct, frozen=True):
    """The command of an order, and the span that submitted it."""

    request_id: UUID
    traceparent: str


class Report(msgspec.Struct, frozen=True):
    """An agent's report about one order, `index` in its batch."""

    agent_id: UUID
    index: int
    order: OrderResult
    link: str | None = None
    """The `traceparent` of the request with the report."""

    @property
    def is_ending(self) -> bool:
        """Whether the report ends its order."""
        return self.order.result.code != RESULT_IN_PROGRESS

    def outcome(self, result: str, status: int) -> ReportOutcome:
        """Return the outcome of the report for its sender."""
        return ReportOutcome(self.index, self.order.order_id, result, status)


class Ending(msgspec.Struct, frozen=True):
    """A report that ends its order, cut to the stored sizes."""

    order_id: UUID
    agent_id: UUID
    status: OrderStatus
    code: int
    message: str
    data: str | None
    outcome: FailureOutcome | None = None
