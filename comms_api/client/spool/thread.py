"""The thread that owns the spool: no other one uses its file, so a slow disk does not hold the event loop."""

from pathlib import Path

from comms_api.client.spool.spool import Spool
from comms_api.client.threads import Worker


class SpoolThread(Worker):
    """Opens a spool, and makes all calls of `file` and of its queues; SQLite refuses calls by other threads.

    Only the sizes of the waiting lines can be read by any thread.
    """

    def __init__(self, path: Path, line_bytes_maximum: int) -> None:
        super().__init__("spool")
        self.file = self.wait(Spool, path, line_bytes_maximum)

    def close(self) -> None:
        """Close the file and end the thread."""
        self.end(self.file.close)
