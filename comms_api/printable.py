"""Text of strangers on one line: in a log, on a terminal, in a name."""

import logging
import re

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What moves the cursor, starts a line or an escape sequence, turns the direction of writing, or cannot be encoded."""


WITHOUT_NUL = r"\A[^\0]*\Z"
"""The pattern of every text that reaches PostgreSQL, which has no NUL."""

NO_DOTS = r"(?!\.{1,2}\Z)"
"""The beginning of a pattern that matches neither `.` nor `..`, which clients resolve in a URL (RFC 3986, 5.2.4)."""


def is_name(text: str) -> bool:
    """Return whether a text can be a part of a path and be shown: no dots alone, no control characters."""
    return text not in {"", ".", ".."} and _UNSAFE.search(text) is None


def as_text(name: str) -> str:
    """Return a name that the system gave as text: bytes in it that are not UTF-8 are escaped."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def escape_controls(text: str, kept: str = "") -> str:
    r"""Return a text with such characters as Python writes them, `\n` or `\x1b`; but not those that are `kept`."""
    return _UNSAFE.sub(lambda found: found[0] if found[0] in kept else repr(found[0])[1:-1], text)


def escape_json(text: str) -> str:
    """Return JSON of several lines with such characters escaped as JSON has it."""
    return _UNSAFE.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


class OneLineFormatter(logging.Formatter):
    """Writes each record as one line, and indents a traceback, so that nothing that is logged looks like a record."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line of a record."""
        return escape_controls(super().formatMessage(record))

    def formatException(self, ei: object) -> str:  # noqa: N802 - logging's name
        """Return the lines of a traceback."""
        text = super().formatException(ei)  # type: ignore[arg-type] # whatever logging has made of it
        return "\n".join(f"  {escape_controls(line)}" for line in text.splitlines())
