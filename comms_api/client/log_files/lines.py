"""Split a log file in UTF-8 or UTF-16 into lines, and make an event of each."""

import codecs
from datetime import UTC, datetime

import msgspec

from comms_api.client.spool.model import Line

LINE_BYTES_MAXIMUM = 64 * 1024
SAMPLE_BYTES = 256
_CUT = " … (line cut)"
_BYTE_ORDER_MARK = "\ufeff"


class _Original(msgspec.Struct, frozen=True):
    original: str
    created: datetime


class _Path(msgspec.Struct, frozen=True):
    path: str


class _Log(msgspec.Struct, frozen=True):
    file: _Path


class _Event(msgspec.Struct, frozen=True):
    event: _Original
    log: _Log


class Encoding(msgspec.Struct, frozen=True):
    """A file's encoding, whose units are as long as its newline."""

    name: str
    newline: bytes

    def find_newline(self, data: bytes, start: int) -> int:
        """Return the offset of the next newline that begins at a unit; -1 if there is none."""
        at = data.find(self.newline, start)
        while at % len(self.newline) and at != -1:
            at = data.find(self.newline, at + 1)
        return at

    def whole_units(self, length: int) -> int:
        """Return a length in bytes without an incomplete unit at its end."""
        return length - length % len(self.newline)


UTF_8 = Encoding("utf-8", b"\n")
UTF_16_LE = Encoding("utf-16-le", b"\n\x00")
UTF_16_BE = Encoding("utf-16-be", b"\x00\n")


def detect_encoding(head: bytes) -> Encoding:
    """Detect the encoding of a file that begins with `head`: by its byte order mark, or by the positions of zeros.

    Only the first line counts, so that the result stays the same while the file grows.
    """
    if head.startswith(codecs.BOM_UTF16_LE):
        return UTF_16_LE
    if head.startswith(codecs.BOM_UTF16_BE):
        return UTF_16_BE
    sample = head[:SAMPLE_BYTES].partition(b"\n")[0]
    even, odd = sample[::2], sample[1::2]
    if odd.count(0) * 2 > len(odd) and 0 not in even:
        return UTF_16_LE
    if even.count(0) * 2 > len(even) and 0 not in odd:
        return UTF_16_BE
    return UTF_8


class Source(msgspec.Struct, frozen=True):
    """The path that the events name, and the file's encoding."""

    path: str
    encoding: Encoding


class TakenLines(msgspec.Struct):
    """The result of one step: the lines, the number of bytes that they cover, and whether the last line is cut."""

    lines: list[Line]
    length: int
    is_cut: bool


def take_lines(source: Source, data: bytes, *, is_cut: bool, is_last: bool, events_bytes: int) -> TakenLines:
    """Take whole lines from the start of `data`, until their events have `events_bytes`.

    With `is_cut`, the data begins within a line whose event exists already. With `is_last`, the file will not grow, so
    the last line is complete even without a newline.
    """
    taken, size = TakenLines([], 0, is_cut), 0
    while size < events_bytes and (end := source.encoding.find_newline(data, taken.length)) != -1:
        raw = data[taken.length : end]
        if raw and not taken.is_cut:
            taken.lines.append(_line(source, raw))
            size += len(taken.lines[-1].event)
        taken.length, taken.is_cut = end + len(source.encoding.newline), False
    if size < events_bytes:
        _take_unterminated(taken, source, data, is_last=is_last)
    return taken


def _take_unterminated(taken: TakenLines, source: Source, data: bytes, *, is_last: bool) -> None:
    """Take the line without a newline at the end of `data` if it is too long, cut already, or the file's last."""
    raw = data[taken.length :]
    is_too_long = len(raw) > LINE_BYTES_MAXIMUM
    if taken.is_cut or is_too_long or is_last:
        if raw and not taken.is_cut:
            taken.lines.append(_line(source, raw))
        taken.is_cut |= is_too_long
        taken.length = len(data) if is_last else source.encoding.whole_units(len(data))


def _line(source: Source, raw: bytes) -> Line:
    text = raw[:LINE_BYTES_MAXIMUM].decode(source.encoding.name, errors="backslashreplace")
    text = text.removeprefix(_BYTE_ORDER_MARK).removesuffix("\r")
    if len(raw) > LINE_BYTES_MAXIMUM:
        text += _CUT
    event = _Event(_Original(text, datetime.now(UTC)), _Log(_Path(source.path)))
    return Line(0, "logcollector", "file", msgspec.json.encode(event))
