"""The reader reads requests however their bytes were split, and refuses other bytes."""

from collections.abc import Sequence
from http import HTTPStatus
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comms_api.http1.reader import CHUNK_EXTRAS_BYTES_MAXIMUM, HEAD_BYTES_MAXIMUM, Refused, RequestReader

BODIES = st.binary(max_size=300)
CUTS = st.lists(st.integers(min_value=0, max_value=400), max_size=12)
BEHIND = b"GET /behind HTTP/1.1\r\nHost: b\r\n\r\n"
UPGRADE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def with_length(body: bytes) -> bytes:
    return b"POST /a%%20b?c=1 HTTP/1.1\r\nHost: a\r\nX-Y: z\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def with_chunks(body: bytes, sizes: Sequence[int]) -> bytes:
    edges = [0, *sorted(size % (len(body) + 1) for size in sizes), len(body)]
    chunks = [body[start:end] for start, end in pairwise(edges) if end > start]
    lines = b"".join(b"%x;extension=1\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return CHUNKED + lines + b"0\r\nTrailer: x\r\n\r\n"


def read_in_pieces(data: bytes, cuts: Sequence[int]) -> tuple[RequestReader, bytes, bytes]:
    """Return the reader, the body, and the bytes after the request."""
    reader, body, left = RequestReader(), b"", b""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in pairwise(edges):
        left = reader.read(left + data[start:end])
        body += reader.take_body()
    return reader, body, left


def refusal_of(data: bytes) -> HTTPStatus:
    with pytest.raises(Refused) as refused:
        RequestReader().read(data)
    assert str(refused.value).endswith(".")
    return refused.value.status


@given(BODIES, CUTS)
def test_a_request_ends_at_its_announced_length_and_the_next_one_stays_unread(body: bytes, cuts: list[int]) -> None:
    reader, received, left = read_in_pieces(b"\r\n" + with_length(body) + BEHIND, cuts)
    assert reader.head is not None
    assert (reader.head.method, reader.head.path, reader.head.raw_path) == ("POST", "/a b", b"/a%20b")
    assert (reader.head.query_string, reader.head.version) == (b"c=1", "1.1")
    assert reader.head.headers == [(b"host", b"a"), (b"x-y", b"z"), (b"content-length", b"%d" % len(body))]
    assert (received, left) == (body, BEHIND)
    assert reader.is_complete
    assert not reader.is_last
    reader.restart()
    assert reader.read(left) == b""
    assert reader.head is not None
    assert (reader.head.path, reader.is_complete) == ("/behind", True)


@given(BODIES, CUTS, CUTS)
def test_a_chunked_body_is_joined_and_its_trailers_are_not_headers(
    body: bytes, sizes: list[int], cuts: list[int]
) -> None:
    reader, received, left = read_in_pieces(with_chunks(body, sizes), cuts)
    assert reader.head is not None
    assert reader.head.headers == [(b"host", b"a"), (b"transfer-encoding", b"chunked")]
    assert (received, left, reader.is_complete, reader.is_last) == (body, b"", True, False)


@pytest.mark.parametrize("behind", [BEHIND, b"no HTTP", with_length(b"behind"), UPGRADE])
def test_a_request_in_one_piece_with_the_end_of_chunks_is_not_read_as_body_and_ends_the_connection(
    behind: bytes,
) -> None:
    reader = RequestReader()
    assert reader.read(with_chunks(b"body", [2]) + behind) == b""
    assert (reader.take_body(), reader.is_complete, reader.is_last) == (b"body", True, True)


@pytest.mark.parametrize(
    ("head", "is_last"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", True),
        (b"GET / HTTP/1.0\r\n\r\n", True),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True),
    ],
)
def test_a_client_says_whether_it_sends_more(head: bytes, *, is_last: bool) -> None:
    reader = RequestReader()
    reader.read(head)
    assert reader.is_complete
    assert reader.is_last is is_last


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", "/", b""),
        (b"/a?b?c", "/a", b"b?c"),
        (b"http://host:1/a/b?c=d", "/a/b", b"c=d"),
        (b"http://host", "/", b""),
        (b"*", "*", b""),
        (b"/%ff", "/\ufffd", b""),
    ],
)
def test_a_target_has_a_path(target: bytes, path: str, query: bytes) -> None:
    reader = RequestReader()
    reader.read(b"OPTIONS %b HTTP/1.1\r\nHost: a\r\n\r\n" % target)
    assert reader.head is not None
    assert (reader.head.path, reader.head.query_string) == (path, query)


@pytest.mark.parametrize(
    "lines",
    [
        b"\x16\x03\x01\x02",
        b"GET / HTTP/1.1\nHost: a\n",
        b"GET / HTTP/1.1\r\nHost: a\nX: b",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n folded",
        b"GET / HTTP/1.1\r\nHost : a",
        b"GET / HTTP/1.1\r\nHost: a\r\n: b",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: \0",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: b\rY: c",
        b"GET / HTTP/1.1",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b",
        b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a",
        b"GET /a b HTTP/1.1\r\nHost: a",
        b"GET / RTSP/1.0\r\nHost: a",
        b"GET / ICE/1.0\r\nHost: a",
        b"PRI * HTTP/2.0\r\n\r\nSM",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -3",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1",
    ],
)
def test_malformed_and_ambiguous_requests_are_refused(lines: bytes) -> None:
    assert refusal_of(lines + b"\r\n\r\n") == 400


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (b"GET / HTTP/2.0\r\nHost: a", 505),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked", 501),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c", 501),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a", 501),
    ],
)
def test_unsupported_requests_are_refused(lines: bytes, status: int) -> None:
    assert refusal_of(lines + b"\r\n\r\n") == status


@pytest.mark.parametrize("end", [b"\r\n\r\n", b""])
def test_a_head_is_bounded_whether_its_end_has_arrived_or_not(end: bytes) -> None:
    start = b"GET / HTTP/1.1\r\nHost: a\r\nX: "
    reader = RequestReader()
    reader.read(start + b"x" * (HEAD_BYTES_MAXIMUM - len(start) - 4) + b"\r\n\r\n")
    assert reader.is_complete
    assert refusal_of(start + b"x" * HEAD_BYTES_MAXIMUM + end) == 431


def test_chunk_extensions_are_bounded_and_chunks_are_not() -> None:
    reader = RequestReader()
    reader.read(CHUNKED)
    for _ in range(200):
        reader.read(b"1000\r\n" + b"x" * 4096 + b"\r\n")
    assert len(reader.take_body()) == 200 * 4096
    for endless in (b"0\r\nX: ", b"1;"):
        reader = RequestReader()
        reader.read(CHUNKED + endless)
        for _ in range(CHUNK_EXTRAS_BYTES_MAXIMUM // 1000):
            reader.read(b"x" * 1000)
        with pytest.raises(Refused) as refused:
            reader.read(b"x" * 1000)
        assert refused.value.status == 431


def test_any_number_of_empty_lines_before_a_request_is_skipped() -> None:
    reader = RequestReader()
    assert reader.read(b"\r\n" * 500_000) == b""
    assert reader.read(b"\r\n" * 500_000 + BEHIND + b"rest") == b"rest"
    assert reader.head is not None
    assert reader.head.path == "/behind"
