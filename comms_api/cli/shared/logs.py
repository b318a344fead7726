"""The log format of every command."""

import logging
from typing import TextIO

from comms_api.text.printable import OneLineFormatter

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def log_to(stream: TextIO, level: str) -> None:
    """Log records of a level and above to a stream, each as one line."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(OneLineFormatter(LOG_FORMAT))
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("alembic").setLevel(logging.WARNING)  # Alembic writes several lines at each start
