"""Valid lines are read by a fast path; its result must equal that of the careful path."""

from collections.abc import Sequence
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from comms_api.batches import framing
from comms_api.errors import TooLarge
from comms_api.events.stateless import StatelessReader, read_stateless
from comms_api.fairness.slices import exhaust
from comms_api.states.stateful import StatefulReader, read_stateful

OWNER = str(UUID(int=1))
STATELESS = [
    b'{"module":"logcollector","collector":"file"}',
    b'{"module":"fim"}',
    b'{"module":"a\\u0000"}',
    b'{"module":"fim","event":1}',
    b'{"event":{"original":"x"}}',
    b'{"mod\\u0075le":"fim"}',
    b'{"rule":{"module":"fim","collector":"x"}}',
    b'{"a":"\\"module\\""}',
    b'{"a":1} trailing',
    b'{"a":1}{"b":2}',
    b'{"open":[1',
    b"2]}",
    b"[1]",
    b'{"o":"b\xfcro"}',
    b'{"module":"b\xfcro"}',
    b"7",
    b"",
]
ESCAPED = b'{"\\u006dodule":"fim","operati\\u006fn":"update","id":"9"}'
STATEFUL = [
    b'{"id":"1","module":"fim","collector":"file","operation":"update"}',
    b'{"id":"2","module":"sca","operation":"create"}',
    b'{"id":"3","module":"fim","operation":"delete"}',
    b'{"id":"","module":"fim","operation":"update"}',
    b'{"id":"4","module":"odd","operation":"update"}',
    b'{"id":"5","module":"inventory","collector":"odd","operation":"update"}',
    b'{"id":"6","module":"fim"}',
    b'{"file":{"size":1}}',
    b'{"operation":"update","size":1}',
    ESCAPED,
    b'{"id":"7","\\u006dodule":"fim","operation":"update"}',
    b'{"rule":{"module":"fim","operation":"update","id":"8"}}',
    b'{"long":"' + b"x" * framing.HEADER_BYTES_MAXIMUM + b'"}',
    b'{"id":"' + b"y" * framing.HEADER_BYTES_MAXIMUM + b'","module":"fim","operation":"delete"}',
    b'{"id":"b\xfcro","module":"fim","operation":"update"}',
    b'{"o":"b\xfcro"}',
    b"not json",
    b"[1]",
    b"",
]


def body_of(lines: list[bytes]) -> bytes:
    return b"\n".join([b'{"agent":{"id":"a"}}', *lines])


@given(st.lists(st.sampled_from(STATELESS), max_size=6))
@example([b'{"mod\\u0075le":"fim"}', b'{"rule":{"module":"fim"}}', b'{"mod\\u0075le":"sca"}', b"{}"])
def test_a_stateless_batch_is_the_same_by_both_paths(lines: list[bytes]) -> None:
    reader = StatelessReader()
    reader.read_line_by_line([line for line in lines if line])
    assert exhaust(read_stateless(body_of(lines), 100)) == reader.finish()


@given(st.lists(st.sampled_from(STATEFUL), max_size=8))
@example([ESCAPED, STATEFUL[7]])
@example([ESCAPED, b'{"rule":{"module":"fim","operation":"update","id":"8"}}'])
def test_a_stateful_batch_is_the_same_by_both_paths(lines: list[bytes]) -> None:
    reader = StatefulReader(OWNER)
    reader.read_line_by_line(2, lines)
    assert exhaust(read_stateful(OWNER, body_of(lines), 100)) == reader.finish()


@given(st.lists(st.lists(st.sampled_from(STATEFUL), max_size=3), max_size=4))
def test_a_stateful_batch_is_the_same_wherever_its_windows_end(windows: list[list[bytes]]) -> None:
    reader, number = StatefulReader(OWNER), 2
    for lines in windows:
        is_utf8 = framing.utf8_fault(b"\n".join(lines)) is None
        reader.read(framing.Window(number, lines, is_utf8))
        number += len(lines)
    whole = [line for lines in windows for line in lines]
    assert reader.finish() == exhaust(read_stateful(OWNER, body_of(whole), 100))


@given(st.lists(st.lists(st.sampled_from(STATELESS), max_size=3), max_size=4))
def test_a_stateless_batch_is_the_same_wherever_its_windows_end(windows: list[list[bytes]]) -> None:
    reader = StatelessReader()
    for lines in windows:
        reader.read(framing.Window(2, lines, framing.utf8_fault(b"\n".join(lines)) is None))
    whole = [line for lines in windows for line in lines]
    assert reader.finish() == exhaust(read_stateless(body_of(whole), 100))


def test_events_with_a_header_each_are_one_run() -> None:
    header, other = b'{"module":"logcollector","collector":"file"}', b'{"module":"fim","collector":"file"}'
    body = body_of([header, b'{"n":1}', header, b'{"n":2}', other, b'{"n":3}', header, b'{"n":4}'])
    batch = exhaust(read_stateless(body, 100))
    lines = [(run.module, run.lines) for run in batch.runs]
    assert lines == [("logcollector", [b'{"n":1}', b'{"n":2}']), ("fim", [b'{"n":3}']), ("logcollector", [b'{"n":4}'])]


def test_a_batch_with_too_many_lines_is_refused_before_any_is_read() -> None:
    largest = body_of([b"{}"] * 20)
    assert exhaust(framing.count_lines(largest, 10)) == 20
    assert len(list(framing.windows(largest, 10))) == 1
    for read in (lambda body: exhaust(framing.count_lines(body, 10)), lambda body: list(framing.windows(body, 10))):
        with pytest.raises(TooLarge):
            read(body_of([b"{}"] * 22))


@given(st.lists(st.sampled_from([b"", b"a", b"b" * framing.WINDOW_BYTES, b" c "]), max_size=20), st.booleans())
def test_windows_have_every_line_once_with_its_number(lines: list[bytes], repeats: bool) -> None:  # noqa: FBT001
    lines = lines * (framing.WINDOW_LINES if repeats else 1)
    windows = list(framing.windows(body_of(lines), 10_000))
    found = {
        number: line for window in windows for number, line in enumerate(window.lines, window.first_number) if line
    }
    assert found == {number: line.strip() for number, line in enumerate(lines, 2) if line}
    assert max([len(window.lines) for window in windows], default=0) <= framing.WINDOW_LINES


class StatelessWatched(StatelessReader):
    """Remembers the lines that took the careful path."""

    def __init__(self) -> None:
        super().__init__()
        self.slow: list[bytes] = []

    def read_line_by_line(self, lines: Sequence[bytes]) -> None:
        self.slow += lines
        super().read_line_by_line(lines)


class StatefulWatched(StatefulReader):
    """Remembers the lines that took the careful path."""

    def __init__(self) -> None:
        super().__init__(OWNER)
        self.slow: list[bytes] = []

    def read_line_by_line(self, first_number: int, lines: Sequence[bytes]) -> None:
        self.slow += lines
        super().read_line_by_line(first_number, lines)


def test_the_batches_of_real_agents_take_the_fast_path() -> None:
    header, event = STATELESS[0], STATELESS[4]
    stateless, stateful = StatelessWatched(), StatefulWatched()
    stateless.read(framing.Window(2, [header, event, event], is_utf8=True))
    assert stateless.slow == [header]
    lines = [STATEFUL[0], STATEFUL[7], STATEFUL[2], STATEFUL[1], STATEFUL[7]]
    stateful.read(framing.Window(2, lines, is_utf8=True))
    assert [change.operation for change in stateful.finish().changes] == ["update", "delete", "create"]
    assert stateful.slow == []
