"""A group as operators see it."""

from datetime import datetime
from typing import Annotated

import msgspec

from comms_api.protocol import GroupName, Text

Precedence = Annotated[int, msgspec.Meta(ge=-1_000, le=1_000)]
"""Decides between groups with conflicting files: the highest precedence wins; among equals, the last name wins."""


class Group(msgspec.Struct, frozen=True):
    """One group and how many agents it has."""

    name: str
    precedence: int
    agents: int
    created_at: datetime


class NewGroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A group to create."""

    name: GroupName
    precedence: Precedence = 0


class GroupChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An operator's change of a group."""

    precedence: Precedence


MEMBERS_MAXIMUM = 10_000


class NewMembers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """New members, by id or name."""

    agents: Annotated[list[Text], msgspec.Meta(max_length=MEMBERS_MAXIMUM)]


class Membership(msgspec.Struct, frozen=True):
    """The number of new members; agents that were members before are not counted."""

    added: int
