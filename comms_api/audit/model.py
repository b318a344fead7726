"""One entry of the audit trail."""

from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

Operation = Literal["insert", "update", "delete"]


class Entry(msgspec.Struct, frozen=True):
    """One change of a row: its actor and address, the table and key, and the row before and after, without secrets.

    If a secret changed, `after` lists its column under `changed`.
    """

    id: UUID
    at: datetime
    actor: str
    address: str | None
    operation: Operation
    subject: str
    key: str
    before: msgspec.Raw
    after: msgspec.Raw


class EntryFilter(msgspec.Struct, frozen=True):
    """Selects entries; a field that is None matches every entry."""

    actor: str | None = None
    subject: str | None = None
    key: str | None = None
