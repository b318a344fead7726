"""Read stateless batches: sort their lines into runs of events and lines for the quarantine."""

from collections.abc import Sequence

import msgspec

from comms_api.batches.framing import Window, find_stateless_header, name_fault, object_fault, windows
from comms_api.events.model import (
    EVENT_BYTES_MAXIMUM,
    QUARANTINED_LINES_MAXIMUM,
    EventRun,
    Quarantined,
    StatelessBatch,
)
from comms_api.fairness.slices import Steps

_ABSENT = msgspec.Raw(b"")


class _Object(msgspec.Struct, frozen=True):
    """Any JSON object; all members except a header's are ignored."""

    module: msgspec.Raw = _ABSENT


_OBJECT = msgspec.json.Decoder(_Object)


def read_stateless(body: bytes, items_maximum: int) -> Steps[StatelessBatch]:
    """Read a body whose owner has been checked; raises `TooLarge` for too many lines."""
    reader = StatelessReader()
    for window in windows(body, items_maximum):
        reader.read(window)
        yield None
    return reader.finish()


class StatelessReader:
    """Collects the runs and the invalid lines of the windows of one batch."""

    def __init__(self) -> None:
        self._runs: list[EventRun] = []
        self._quarantined: list[Quarantined] = []
        self._hidden = 0
        self._problem: str | None = "no sub-header line before it"

    def read(self, window: Window) -> None:
        """Read the next lines of a batch."""
        lines = [line for line in window.lines if line]
        if not lines or not window.is_utf8:
            self.read_line_by_line(lines)
            return
        self.read_line_by_line(lines[:1])
        del lines[0]
        if self._problem is None and _are_events(lines):
            self._runs[-1].lines.extend(lines)
        else:
            self.read_line_by_line(lines)

    def read_line_by_line(self, lines: Sequence[bytes]) -> None:
        """Read lines of any kind: sub-headers, events and invalid lines."""
        for line in lines:
            is_too_large = len(line) > EVENT_BYTES_MAXIMUM
            fault = f"larger than {EVENT_BYTES_MAXIMUM} bytes" if is_too_large else object_fault(line)
            header = find_stateless_header(line)
            if header is not None:
                self._problem = name_fault(header.module, header.collector)
                self._begin_run(header.module, header.collector)
            if fault is not None:
                self._quarantine(fault, line)
            elif header is None and self._problem is not None:
                self._quarantine(self._problem, line)
            elif header is None:
                self._runs[-1].lines.append(line)

    def _begin_run(self, module: str, collector: str) -> None:
        """Begin a run, or continue the last one: real agents send a header before each event."""
        last = self._runs[-1] if self._runs else None
        if last is None or (last.module, last.collector) != (module, collector):
            self._runs.append(EventRun(module, collector, []))

    def finish(self) -> StatelessBatch:
        """Return the whole batch."""
        return StatelessBatch([run for run in self._runs if run.lines], self._quarantined, self._hidden)

    def _quarantine(self, reason: str, line: bytes) -> None:
        if len(self._quarantined) < QUARANTINED_LINES_MAXIMUM:
            self._quarantined.append(Quarantined(reason, line))
        else:
            self._hidden += 1


def _are_events(lines: Sequence[bytes]) -> bool:
    """Return whether all lines are valid events and none may be a header; this holds for nearly all windows."""
    try:
        for line in lines:
            if _OBJECT.decode(line).module is not _ABSENT or len(line) > EVENT_BYTES_MAXIMUM:
                return False
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
