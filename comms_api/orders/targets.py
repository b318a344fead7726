"""The recipients of orders: the ids of services, and the target that a recipient sees."""

from collections.abc import Sequence
from uuid import UUID, uuid5

from comms_api.orders.model import CommandTargetType
from comms_api.protocol import Target

TARGET_CHARACTERS_MAXIMUM = 256
"""The maximum number of characters of a target's names in an order."""

_SERVICE_NAMESPACE = UUID("8d0a1c3e-6a54-4c0b-9d52-3f1a5b7e2c10")


def service_id(name: str) -> UUID:
    """Return the id that a service's orders have instead of an agent's."""
    return uuid5(_SERVICE_NAMESPACE, name)


def is_service(recipient: UUID) -> bool:
    """Return whether a recipient is a service: agents' ids are never of version 5."""
    return recipient.version == service_id("").version


def wire_target(kind: CommandTargetType, names: Sequence[str], recipient: UUID) -> Target:
    """Return the target in a recipient's order: an agent sees its id, not the other recipients of the command."""
    if kind == "agent" or kind == "selection":  # noqa: PLR1714 - mypy narrows equality
        return Target(str(recipient), "agent")
    name = ",".join(names) or kind
    return Target(name[:TARGET_CHARACTERS_MAXIMUM], kind)
