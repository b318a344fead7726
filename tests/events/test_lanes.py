"""Batches without a fault are read by a shorter way; it must come to the same."""

from uuid import UUID

from hypothesis import example, given
from hypothesis import strategies as st

from comms_api.events import framing
from comms_api.events.model import Batch

AGENT = UUID(int=1)
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


def batch_of(lines: list[bytes]) -> Batch:
    return framing.split_batch(b"\n".join([b'{"agent":{"id":"a"}}', *lines]), 100)


@given(st.lists(st.sampled_from(STATELESS), max_size=6))
@example([b'{"mod\\u0075le":"fim"}', b'{"rule":{"module":"fim"}}', b'{"mod\\u0075le":"sca"}', b"{}"])
def test_a_stateless_batch_is_the_same_by_both_ways(lines: list[bytes]) -> None:
    filled = [line for line in lines if line]
    assert framing.read_stateless(batch_of(lines)) == framing._read_line_by_line(filled)  # noqa: SLF001


@given(st.lists(st.sampled_from(STATEFUL), max_size=8))
@example([ESCAPED, STATEFUL[7]])
@example([ESCAPED, b'{"rule":{"module":"fim","operation":"update","id":"8"}}'])
def test_a_stateful_batch_is_the_same_by_both_ways(lines: list[bytes]) -> None:
    assert framing.read_stateful(AGENT, batch_of(lines)) == framing._read_item_by_item(AGENT, lines)  # noqa: SLF001


def test_the_batches_of_real_agents_take_the_short_way() -> None:
    header, event = STATELESS[0], STATELESS[4]
    assert framing._read_faultless([header, event, event]) is not None  # noqa: SLF001
    items = framing._read_faultless_items(AGENT, [STATEFUL[0], STATEFUL[7], STATEFUL[2], STATEFUL[1], STATEFUL[7]])  # noqa: SLF001
    assert [change.operation for change in items] == ["update", "delete", "create"]
