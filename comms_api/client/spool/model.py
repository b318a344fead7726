"""The records that the spool keeps."""

import msgspec

from comms_api.protocol import Operation


class Identity(msgspec.Struct, frozen=True):
    """The agent's id, and the key that it logs in with."""

    id: str
    key: str
    is_enrolled: bool = False
    is_external: bool = False
    """Whether `id` belongs to an external database. It is replaced by the server's id at the first login."""

    next_key: str = ""
    """During a rotation, the key that will replace `key`."""


class FilePosition(msgspec.Struct, frozen=True):
    """The reading position in a file. Folder and inode identify the file; the digests identify its content."""

    folder: str
    inode: int
    path: str
    offset: int
    """The number of bytes that were read."""
    opening: bytes = b""
    """Digest of the first line."""
    digest: bytes = b""
    """Digest of the first bytes and of those before `offset`."""
    is_cut: bool = False
    """Whether `offset` is within an overlong line, whose event exists already."""


class Line(msgspec.Struct, frozen=True):
    """One collected event as it is sent; `number` orders the lines in the spool."""

    number: int
    module: str
    collector: str
    event: bytes


class Change(msgspec.Struct, frozen=True):
    """One change of a state; `data` is None for a delete, and `number` orders the changes in the spool."""

    module: str
    collector: str
    id: str
    operation: Operation
    data: bytes | None
    number: int = 0


class Statistics(msgspec.Struct, frozen=True):
    """Exact counts since the enrollment: each is increased in the transaction of the items that it counts."""

    events_collected: int = 0
    events_sent: int = 0
    events_dropped: int = 0
    states_collected: int = 0
    states_sent: int = 0
    states_refused: int = 0
    orders_received: int = 0
    orders_executed: int = 0
    orders_duplicate: int = 0
    results_reported: int = 0
    logins: int = 0
    retries: int = 0
