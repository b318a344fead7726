"""The log format of every command."""

import logging
import os
from typing import TextIO

from comms_api.settings import Settings
from comms_api.text.json_log import JsonFormatter
from comms_api.text.printable import OneLineFormatter

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def log_as_text(stream: TextIO, level: str) -> None:
    """Log records of a level and above to a stream, each as one line of text."""
    _log(stream, level, OneLineFormatter(LOG_FORMAT))


def log_as_set(stream: TextIO, settings: Settings) -> None:
    """Log to a stream in the format of the settings; `auto` is text on a terminal, and JSON elsewhere."""
    if settings.log_format == "text" or (settings.log_format == "auto" and stream.isatty()):
        log_as_text(stream, settings.log_level)
    else:
        _log(stream, settings.log_level, JsonFormatter({"node": settings.node_name or os.uname().nodename}))


def _log(stream: TextIO, level: str, formatter: logging.Formatter) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("alembic").setLevel(logging.WARNING)  # Alembic writes several lines at each start
