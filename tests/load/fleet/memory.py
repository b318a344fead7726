"""The state that an agent keeps on disk, so that it continues after an outage."""

import random
import string
from dataclasses import dataclass, field
from typing import TypeAlias

Change: TypeAlias = tuple[str, str]
"""An operation and the id of its state."""

KEY_CHARACTERS = string.ascii_letters + string.digits
KEY_LENGTH = 32


def _new_key() -> str:
    return "".join(random.choices(KEY_CHARACTERS, k=KEY_LENGTH))  # noqa: S311 - it guards made-up agents


@dataclass
class Batch:
    """Events or changes that are not acknowledged; if `was_sent`, the server may have them."""

    body: bytes
    size: int
    changes: list[Change] = field(default_factory=list)
    was_sent: bool = False


@dataclass
class Memory:
    """The memory of one agent."""

    id: str
    name: str
    key: str = field(default_factory=_new_key)
    states: set[str] = field(default_factory=set)
    tags: dict[str, str] = field(default_factory=dict)
    waiting: dict[str, Batch] = field(default_factory=dict)
    unreported: list[str] = field(default_factory=list)


AT_REST: list[Memory] = []
"""Agents that are enrolled and away; a starting agent resumes one of them first."""
