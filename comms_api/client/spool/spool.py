"""The spool: its file, and the queues in it."""

from pathlib import Path

import msgspec

from comms_api.client.spool.changes import ChangeQueue
from comms_api.client.spool.file import SpoolFile
from comms_api.client.spool.lines import LineQueue
from comms_api.client.spool.model import Identity
from comms_api.client.spool.orders import OrderLog
from comms_api.client.spool.positions import FilePositions

_IDENTITY = "identity"


class Spool(SpoolFile):
    """Everything that the agent must remember; `line_bytes_maximum` bounds the lines that wait to be sent."""

    def __init__(self, path: Path, line_bytes_maximum: int) -> None:
        super().__init__(path)
        self.positions = FilePositions(self)
        self.lines = LineQueue(self, self.positions, line_bytes_maximum)
        self.changes = ChangeQueue(self)
        self.orders = OrderLog(self)

    def find_identity(self) -> Identity | None:
        """Return the agent's identity, or None before it has chosen one."""
        fact = self.find_fact(_IDENTITY)
        return None if fact is None else msgspec.json.decode(fact, type=Identity)

    def remember_identity(self, identity: Identity) -> None:
        """Store the agent's identity."""
        self.remember(_IDENTITY, identity)
