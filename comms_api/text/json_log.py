"""Write log records as lines of JSON, with the request during which they were written."""

import logging
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime

import msgspec

from comms_api.text.printable import escape_controls

FIELDS = "fields"
"""The key in a record's `extra` for a mapping of more members."""

_NO_FIELDS: Mapping[str, object] = {}


def _no_request() -> Mapping[str, object]:
    return _NO_FIELDS


DESCRIBE_REQUEST: ContextVar[Callable[[], Mapping[str, object]]] = ContextVar("describe_request", default=_no_request)
"""Returns the members that describe the request of the current task; called only when a line is written."""


class JsonFormatter(logging.Formatter):
    """Writes each record as one line of JSON; `shared` are members of every line."""

    def __init__(self, shared: Mapping[str, object]) -> None:
        super().__init__()
        self._shared = shared

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        members = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": escape_controls(record.getMessage()),
            **self._shared,
            **DESCRIBE_REQUEST.get()(),
            **getattr(record, FIELDS, _NO_FIELDS),
        }
        if record.exc_info:
            members["traceback"] = escape_controls(self.formatException(record.exc_info), kept="\n")
        return msgspec.json.encode(members).decode()
