"""Webhooks, and their deliveries, as administrators see them."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec

from comms_api.fleet.model import FleetEventKind
from comms_api.protocol import Name, Text

ResultKind = Literal["order_ended"]
WebhookKind = Literal[FleetEventKind, ResultKind]
Kinds = Annotated[list[WebhookKind], msgspec.Meta(min_length=1, max_length=64)]
Url = Annotated[Text, msgspec.Meta(min_length=1, max_length=2048)]

ATTEMPT_SECONDS = 10.0
"""The time for the resolution, the connection and the answer of one attempt together."""

RETRY_SECONDS_MAXIMUM = 3_600.0
"""The longest pause before another attempt, whatever the receiver asks for."""

WEBHOOKS_MAXIMUM = 100
EVENTS_PER_DELIVERY = 100
BACKLOG_MAXIMUM = 1_000
"""The number of deliveries that may wait for one webhook; further events are dropped and counted."""

DEAD_LETTERS_MAXIMUM = 1_000
"""The number of dead letters that one webhook keeps; the oldest are deleted first."""


class DeliveryFailed(Exception):
    """The receiver did not accept a delivery; the message says why.

    `pause_seconds` is the receiver's Retry-After, at most `RETRY_SECONDS_MAXIMUM`.
    """

    def __init__(self, message: str, pause_seconds: float | None = None) -> None:
        super().__init__(message)
        self.pause_seconds = pause_seconds


class NewWebhook(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request for a webhook: where it sends events, and of which kinds."""

    name: Name
    url: Url
    kinds: Kinds


class WebhookChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A change of a webhook; a member that is missing stays."""

    url: Url | None = None
    kinds: Kinds | None = None
    is_enabled: bool | None = None


class WebhookSecret(msgspec.Struct, frozen=True):
    """The secret that signs a webhook's deliveries; it is shown only once."""

    id: UUID
    secret: str


class Webhook(msgspec.Struct, frozen=True):
    """A webhook; its secret is never shown.

    `waiting` and `dead` count its deliveries. `dropped_events` counts the events that were not added because too many
    deliveries waited. Until `paused_until`, nothing is sent, because the receiver's last answer had a Retry-After.
    """

    id: UUID
    name: str
    url: str
    kinds: list[str]
    is_enabled: bool
    user_name: str
    created_at: datetime
    waiting: int
    dead: int
    dropped_events: int
    last_error: str
    paused_until: datetime | None


class WebhookTest(msgspec.Struct, frozen=True):
    """The outcome of a test delivery; `error` says why the receiver did not accept it."""

    is_accepted: bool
    error: str


class DeadLetter(msgspec.Struct, frozen=True):
    """A delivery that failed too often; `content` is its body."""

    id: UUID
    created_at: datetime
    attempts: int
    last_error: str
    content: msgspec.Raw


class Resent(msgspec.Struct, frozen=True):
    """The number of dead letters that are sent again."""

    deliveries: int


class Delivery(msgspec.Struct, frozen=True):
    """A delivery that this process is to send now."""

    id: UUID
    url: str
    sealed_secret: bytes
    content: bytes
    attempts: int
