"""The diagnosis of an agent, as operators see it."""

from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

from comms_api.agents.configuration import SyncStatus
from comms_api.agents.model import Agent

ORDERS_SHOWN = 100

OrderReason = Literal["due", "start", "paused", "stopped", "rollout", "leased", "expired"]
"""The reason why an order is open.

`due`: the agent's next poll gets it. `start`: it must not be offered before `offer_at`. `paused`, `stopped` and
`rollout`: its command holds it back. `leased`: the agent has it and has not reported it; it is offered again at
`offer_at`. `expired`: it is about to end.
"""

PollState = Literal["held", "possible", "none"]
"""Whether a poll of the agent is held: by the process that answers, possibly by another process, or by none."""


class OpenOrder(msgspec.Struct, frozen=True):
    """An open order, and why the agent has not ended it; `attempt` counts its offers."""

    order_id: UUID
    request_id: UUID
    action: str
    priority: int
    attempt: int
    reason: OrderReason
    phase_reason: str
    created_at: datetime
    offer_at: datetime | None
    expires_at: datetime


class FailedLogins(msgspec.Struct, frozen=True):
    """The failed logins of an agent from a network; older ones count less. The network is locked until `locked_until`.

    Only failures that count for the lock are here: a wrong key that an external database may know, or a guessable one.
    """

    network: str
    failures: float
    failed_at: datetime
    locked_until: datetime | None


class KeyRefusal(msgspec.Struct, frozen=True):
    """A recent refusal of a key request for the agent; all nodes remember it until `until`."""

    code: int
    message: str
    until: datetime


class Diagnosis(msgspec.Struct, frozen=True):
    """The open orders of an agent, its other troubles, and the sentences that describe them.

    `findings` are sentences, the most important first. `orders` are the first open orders in the order of their offers,
    and `has_more_orders` whether others follow. The agent's tokens are invalid if `revoked_at` is later than
    `last_login_at`. With `has_next_key`, a rotation of the key is in progress.
    """

    agent: Agent
    at: datetime
    poll: PollState
    revoked_at: datetime | None
    has_next_key: bool
    configuration: SyncStatus
    failed_logins: list[FailedLogins]
    key_refusals: list[KeyRefusal]
    orders: list[OpenOrder]
    has_more_orders: bool
    findings: list[str] = []
