"""Show values on pages: texts of agents, which are hostile, times, durations and numbers.

The templates escape every value. These filters also make control characters visible and limit the length.
"""

import math
import re
from datetime import UTC, datetime
from typing import Any

import msgspec
from markupsafe import Markup, escape

from comms_api.text.printable import UNSAFE, escape_controls

TEXT_CHARACTERS_SHOWN = 200
JSON_BYTES_SHOWN = 32 * 1024
PLAIN_BYTES = 1024
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def visible(text: object, limit: int = TEXT_CHARACTERS_SHOWN) -> Markup:
    """Return a text on one line, cut to `limit` characters, with its control characters shown as in Python."""
    shown = str(text)
    cut = Markup('<span class="cut" title="{}">…</span>').format(f"{len(shown)} characters")
    return _mark_controls(shown[:limit]) + (cut if len(shown) > limit else Markup(""))


def _mark_controls(text: str) -> Markup:
    pieces, end = [], 0
    for found in UNSAFE.finditer(text):
        pieces += [escape(text[end : found.start()]), _CONTROL.format(escape_controls(found[0]))]
        end = found.end()
    return Markup("").join([*pieces, escape(text[end:])])


_CONTROL = Markup('<span class="control">{}</span>')


def plain(value: msgspec.Raw) -> str:
    """Return the beginning of stored JSON as a text."""
    return bytes(memoryview(value)[:PLAIN_BYTES]).decode(errors="replace")


def pretty(value: object, limit: int = JSON_BYTES_SHOWN) -> Markup:
    """Return JSON with indentation, cut to `limit` bytes, with its control characters shown."""
    raw = bytes(value) if isinstance(value, msgspec.Raw) else msgspec.json.encode(value)
    is_cut = len(raw) > limit
    text = (raw[:limit] if is_cut else _indented(raw)).decode(errors="replace")
    shown = Markup("\n").join(map(_mark_controls, text.split("\n")))
    note = Markup('\n<span class="cut">… the first {} of {}</span>').format(size(limit), size(len(raw)))
    return shown + note if is_cut else shown


def _indented(raw: bytes) -> bytes:
    try:
        return msgspec.json.format(raw, indent=2)
    except (msgspec.DecodeError, RecursionError):
        return raw


def moment(value: datetime | None, absent: str = "never") -> Markup | str:
    """Return a time as a `time` element, which a script shows in the browser's zone."""
    if value is None:
        return absent
    utc = value.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(utc.isoformat(), utc.strftime("%Y-%m-%d %H:%M:%S UTC"))


def ago(value: datetime | None, absent: str = "never") -> Markup | str:
    """Return the time since a moment in one unit, with the moment on hover."""
    if value is None:
        return absent
    utc = value.astimezone(UTC)
    seconds = (datetime.now(UTC) - utc).total_seconds()
    text = f"{duration(seconds)} ago" if seconds >= 0 else f"in {duration(-seconds)}"
    return Markup('<time datetime="{}" data-relative title="{}">{}</time>').format(
        utc.isoformat(), utc.strftime("%Y-%m-%d %H:%M:%S UTC"), text
    )


def duration(seconds: float) -> str:
    """Return a duration in its largest unit."""
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return "0 s"


def count(number: float) -> str:
    """Return a number with thin spaces between thousands."""
    return f"{number:,}".replace(",", "\u2009")


def size(number: float) -> str:
    """Return a number of bytes in a binary unit."""
    power = min(int(math.log2(max(number, 1))) // 10, len(_BINARY_UNITS) - 1)
    return f"{number / 2 ** (10 * power):.{1 if power else 0}f} {_BINARY_UNITS[power]}"


def words(value: object) -> str:
    """Return the words of a name with underscores."""
    return re.sub(r"[_-]+", " ", str(value))


FILTERS: dict[str, Any] = {
    "visible": visible,
    "plain": plain,
    "pretty": pretty,
    "moment": moment,
    "ago": ago,
    "duration": duration,
    "count": count,
    "size": size,
    "words": words,
}
