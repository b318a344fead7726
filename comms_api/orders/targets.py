"""Who an order is for: agents and services, as orders keep them and as their recipients and operators see them."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid5

from comms_api.orders.model import CommandTarget
from comms_api.protocol import Target, TargetType

TOLD_CHARACTERS_MAXIMUM = 256
"""Of the names of many groups a recipient is told no more."""


_SERVICE_NAMESPACE = UUID("8d0a1c3e-6a54-4c0b-9d52-3f1a5b7e2c10")


def service_id(name: str) -> UUID:
    """Return what a service's orders are kept under, in the place of an agent's id."""
    return uuid5(_SERVICE_NAMESPACE, name)


def is_service(recipient: UUID) -> bool:
    """Return whether a recipient is a service: agents' ids are never of version 5."""
    return recipient.version == service_id("").version


def wire_target(kind: TargetType, names: Sequence[str], recipient: UUID) -> Target:
    """Return the target as a recipient is told: agents learn their own id, not whom else a command is for."""
    told = str(recipient) if kind == "agent" else ",".join(names) or kind
    return Target(told[:TOLD_CHARACTERS_MAXIMUM], kind)


def shown_target(kind: TargetType, names: Sequence[str], narrowed: Any) -> CommandTarget:
    """Return the target as it was submitted."""
    return CommandTarget(kind, names[0] if len(names) == 1 else list(names) or "", narrowed)
