"""Show untrusted text safely on one line: in a log, on a terminal, in a name."""

import logging
import re

UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that move the cursor, start a line or an escape sequence, change the direction, or cannot be encoded."""

WITHOUT_NUL = r"\A[^\0]*\Z"
"""The pattern of every text that reaches PostgreSQL, which cannot store NUL."""

NO_DOTS = r"(?!\.{1,2}\Z)"
"""The beginning of a pattern that matches neither `.` nor `..`, which clients resolve in a URL (RFC 3986, 5.2.4)."""


def is_name(text: str) -> bool:
    """Return whether a text can be part of a path and be shown: not . or .., no control characters."""
    return text not in {"", ".", ".."} and UNSAFE.search(text) is None


def as_text(name: str) -> str:
    """Return a name from the system as text, with bytes that are not UTF-8 escaped."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def escape_controls(text: str, kept: str = "") -> str:
    r"""Return a text with unsafe characters escaped as in Python, `\n` or `\x1b`, except the `kept` ones."""
    return UNSAFE.sub(lambda found: found[0] if found[0] in kept else repr(found[0])[1:-1], text)


def escape_json(text: str) -> str:
    """Return JSON of several lines with unsafe characters escaped as in JSON."""
    return UNSAFE.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


class OneLineFormatter(logging.Formatter):
    """Writes each record as one line and indents tracebacks, so that no logged text can look like a record."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line of a record."""
        return escape_controls(super().formatMessage(record))

    def formatException(self, ei: object) -> str:  # noqa: N802 - logging's name
        """Return the lines of a traceback."""
        text = super().formatException(ei)  # type: ignore[arg-type] # logging passes its own tuple
        return "\n".join(f"  {escape_controls(line)}" for line in text.splitlines())
