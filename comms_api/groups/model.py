"""A group as operators see it."""

from datetime import datetime
from uuid import UUID

import msgspec

from comms_api.protocol import GroupName


class Group(msgspec.Struct, frozen=True):
    """One group and how many agents it has."""

    name: str
    agents: int
    created_at: datetime


class NewGroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a group is made with."""

    name: GroupName


class NewMembers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Agents that are to become members."""

    agents: list[UUID]


class Membership(msgspec.Struct, frozen=True):
    """How many agents became members; those that were already are not counted."""

    added: int
