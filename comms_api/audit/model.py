"""One entry of the audit trail."""

from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

Operation = Literal["insert", "update", "delete"]


class Entry(msgspec.Struct, frozen=True):
    """One change: by whom, from where, of which row of which table, and what it was before and after; no secrets.

    Where a secret has changed, `after` names it under `changed`.
    """

    id: UUID
    at: datetime
    actor: str
    address: str | None
    operation: Operation
    subject: str
    key: str
    before: msgspec.Raw | None
    after: msgspec.Raw | None


class EntryFilter(msgspec.Struct, frozen=True):
    """Which entries to list; an empty field asks for nothing."""

    actor: str | None = None
    subject: str | None = None
    key: str | None = None
    since: datetime | None = None
    until: datetime | None = None
