"""The content of a stored batch has the same events as its body, however the body arrived."""

import json
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any
from uuid import UUID

import httpx
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from support.batches import metadata, stateless
from support.events import batch_of, events_of, incompressible, stored_lines
from support.server import Server

from comms_api.compression import FRAMES_MAXIMUM
from comms_api.errors import Malformed
from comms_api.events.contents import (
    STEP_BYTES,
    STREAMS_BYTES_MAXIMUM,
    compress,
    decompress,
    encode_content,
    encode_streams,
    find_events,
)
from comms_api.events.jetstream.cutting import EVENTS_MAXIMUM, cut
from comms_api.events.model import EventBatch, EventRun
from comms_api.events.stateless import read_stateless
from comms_api.fairness.slices import exhaust

AGENT = UUID(int=7)
ZSTD = zstandard.ZstdCompressor(level=3).compress
LINES = [
    b'{"module":"logcollector","collector":"file"}',
    b'{"module":"fim"}',
    b'{"mod\\u0075le":"sca"}',
    b'{"module":"a\\u0000"}',
    b'{"module":"fim","event":1}',
    b'{"event":{"original":"x"}}',
    b'  {"n": 1}\t\r',
    '{"text":"é 漢 \\ud800"}'.encode(),
    b'{"o":"b\xfcro"}',
    b'{"module":"b\xfcro"}',
    b'{"open":[1',
    b"2]}",
    b"7",
    b"",
]


def content_of(body: bytes, zstd: bytes | None = None) -> tuple[list[tuple[str, str, bytes]], bytes]:
    """Return the events that are read from a body, and the content that is stored."""
    batch = exhaust(read_stateless(body, 1_000))
    events = [(run.module, run.collector, line) for run in batch.runs for line in run.lines]
    return events, exhaust(encode_content(batch, body, zstd))


def read_back(content: bytes, count: int) -> list[tuple[str, str, bytes]]:
    stored = events_of(EventBatch(UUID(int=1), AGENT, count, None, content))
    assert [event.id.int for event in stored] == list(range(1, count + 1))
    return [(event.module, event.collector, bytes(event.event)) for event in stored]


@given(st.lists(st.sampled_from(LINES), max_size=12))
def test_a_content_has_the_events_of_its_body(lines: list[bytes]) -> None:
    body = b"\n".join([metadata(AGENT), LINES[0], b"{}", *lines])
    for zstd in (None, ZSTD(body)):
        events, content = content_of(body, zstd)
        assert read_back(content, len(events)) == events


def test_a_faultless_zstd_body_is_stored_as_it_came_and_any_other_without_its_metadata() -> None:
    faultless, faulty = (stateless(AGENT, *[b'{"n":1}'] * 50, last) for last in (b"{}", b"{"))
    assert content_of(faultless, ZSTD(faultless))[1] == ZSTD(faultless)
    expected = b'\n{"module": "logcollector", "collector": "file"}\n'
    assert exhaust(decompress(content_of(faultless)[1])).startswith(expected)
    events, content = content_of(faulty, ZSTD(faulty))
    body = exhaust(decompress(content))
    assert body.startswith(b'\n{"module":"logcollector","collector":"file"}\n')
    assert [line for _, _, line in events] == body.splitlines()[2:]


def test_a_zstd_body_that_is_no_smaller_than_its_content_is_compressed_again() -> None:
    body = stateless(AGENT, *[b'{"n":1}'] * 50)
    padded = ZSTD(body) + (0x184D2A50).to_bytes(4, "little") + len(body).to_bytes(4, "little") + bytes(len(body))
    assert exhaust(decompress(padded)) == body
    assert len(content_of(body, padded)[1]) < len(body)


@pytest.mark.parametrize("size", [0, 1, STEP_BYTES, STEP_BYTES + 1, 3 * STEP_BYTES])
def test_a_body_of_any_size_is_compressed_to_one_frame(size: int) -> None:
    body = incompressible(size // 2 + 1)[:size]
    steps = compress(memoryview(body))
    content = exhaust(steps)
    assert exhaust(decompress(content)) == zstandard.decompress(content) == body


def _streamed(body: bytes) -> bytes:
    """Return a frame that does not announce its size."""
    frame = zstandard.ZstdCompressor().compressobj()
    return frame.compress(body) + frame.flush()


BODY = b'{"n":1}\n' * 10_000
FRAMES = {
    "small": (ZSTD(BODY), BODY),
    "large": (ZSTD(BODY * 9), BODY * 9),
    "streamed": (_streamed(BODY), BODY),
    "two": (ZSTD(BODY[:9]) + ZSTD(BODY[9:]), BODY),
    "streamed and small": (_streamed(BODY[:9]) + ZSTD(BODY[9:]), BODY),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frames_are_decoded_at_once_or_in_steps_alike(name: str) -> None:
    content, body = FRAMES[name]
    assert exhaust(decompress(content)) == body


@pytest.mark.parametrize("content", [b"", b"no", ZSTD(BODY)[:-1], ZSTD(BODY) + b"x", ZSTD(b"x") * (FRAMES_MAXIMUM + 1)])
def test_a_damaged_content_is_malformed(content: bytes) -> None:
    with pytest.raises(Malformed):
        exhaust(decompress(content))


def test_streams_are_ascii_and_too_many_are_left_out() -> None:
    runs = [EventRun(module, collector, []) for module, collector in (("ö", "a"), ("m", ""), ("ö", "b"), ("ö", "a"))]
    streams = encode_streams(runs)
    assert streams is not None
    assert streams.isascii()
    assert json.loads(streams) == {"ö": ["a", "b"], "m": [""]}
    assert (
        encode_streams([EventRun(f"{number:0100}", "", []) for number in range(STREAMS_BYTES_MAXIMUM // 100)]) is None
    )
    assert encode_streams([EventRun("m", str(number % 2), []) for number in range(10_000)]) is None


def cut_lines(lines: Sequence[bytes], bytes_maximum: int) -> tuple[list[EventBatch], list[bytes]]:
    return exhaust(cut(batch_of(UUID(int=100), AGENT, lines), bytes_maximum))


def test_a_batch_is_cut_into_batches_that_fit_and_keep_the_ids() -> None:
    lines = [incompressible(size) for size in (700, 1, 3_000, 5_000, 20, 2_999, 9_000, 9_000, 40)]
    parts, giants = cut_lines(lines, 8_192)
    assert giants == [lines[6], lines[7]]
    assert max(len(part.content) for part in parts) <= 8_192
    events = list(chain.from_iterable(map(events_of, parts)))
    numbers = [0, 1, 2, 3, 4, 5, 8]
    assert [(event.id.int - 100, bytes(event.event)) for event in events] == [(n, lines[n]) for n in numbers]
    assert {part.streams for part in parts} == {'{"m":["c"]}'}


def test_no_part_has_very_many_events() -> None:
    parts, giants = cut_lines([b"{}"] * (2 * EVENTS_MAXIMUM + 1), 2**20)
    assert [part.events for part in parts] == [EVENTS_MAXIMUM, EVENTS_MAXIMUM, 1]
    assert giants == []


def test_runs_that_alternate_are_cut_with_their_names() -> None:
    body = b"".join(b'\n{"module":"%d"}\n{"n":%d}' % (number % 3, number) for number in range(300))
    batch = EventBatch(UUID(int=1), AGENT, 300, None, exhaust(compress(body)))
    parts, _ = exhaust(cut(batch, 8_192))
    events = list(chain.from_iterable(map(events_of, parts)))
    assert len(parts) > 1
    assert events == list(chain.from_iterable(find_events(batch, body)))


def test_the_table_has_zstd_bodies_as_they_came(
    server: Server, management: httpx.Client, query: Callable[..., list[Any]]
) -> None:
    agent_id = server.enroll(management, "compressing")
    body = stateless(agent_id, {"n": 1}, {"n": 2})
    for packed in (ZSTD(body), _streamed(body)):
        answer = server.log_in(agent_id).post("/events/stateless", content=packed, headers={"Content-Encoding": "zstd"})
        assert answer.status_code == 204
    rows = query("SELECT content, events, streams::text FROM event_batches WHERE agent_id = $1 ORDER BY id", agent_id)
    assert [tuple(row) for row in rows] == [
        (packed, 2, '{"logcollector": ["file"]}') for packed in (ZSTD(body), _streamed(body))
    ]
    assert stored_lines(query, agent_id) == ['{"n": 1}', '{"n": 2}'] * 2
