"""The records that the spool keeps."""

import msgspec

from comms_api.protocol import Operation


class Identity(msgspec.Struct, frozen=True):
    """Who the agent is; the key is the secret it logs in with."""

    id: str
    key: str
    is_enrolled: bool = False
    is_external: bool = False
    """Whether the id is that of an external database, until the server has told its own."""

    next_key: str = ""
    """The key that replaces this one, while it is rotated."""


class Place(msgspec.Struct, frozen=True):
    """The reading position in a file. Folder and inode identify the file; the digests identify its content."""

    folder: str
    inode: int
    path: str
    position: int
    opening: bytes = b""
    """Digest of the first line."""
    digest: bytes = b""
    """Digest of the first bytes and of those before `position`."""
    is_cut: bool = False
    """Whether `position` is within an overlong line whose event exists already."""


class Line(msgspec.Struct, frozen=True):
    """One collected event, as it is sent; `number` is its place in the spool."""

    number: int
    module: str
    collector: str
    event: bytes


class Change(msgspec.Struct, frozen=True):
    """One change of a state, as it is sent; `number` is its place in the spool, `data` None for a delete."""

    module: str
    collector: str
    id: str
    operation: Operation
    data: bytes | None
    number: int = 0


class Statistics(msgspec.Struct, frozen=True):
    """What the agent has done since it was enrolled, exactly: each count moves in the transaction of what it counts."""

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
