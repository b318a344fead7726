"""Another implementation of HTTP/1.1 reads our answers as the app sent them."""

from collections.abc import Sequence
from http import HTTPStatus

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from comms_api.http1.answer import STANDARD_HEADERS, Answer, encode_refusal
from comms_api.http1.reader import Refused

DATE = b"date: Sat, 21 Nov 2026 12:00:00 GMT\r\n"
PARTS = st.lists(st.binary(max_size=60), min_size=1, max_size=5)


def encode(
    status: int, headers: Sequence[tuple[bytes, bytes]], parts: Sequence[bytes], version: str, method: str
) -> bytes:
    answer = Answer()
    length = len(parts[0]) if len(parts) == 1 else None
    data = answer.encode_head({"status": status, "headers": headers}, method, version, DATE, length)
    for number, part in enumerate(parts):
        data += b"".join(answer.encode_body(part, is_last=number == len(parts) - 1))
    assert answer.is_whole
    return data


def read(data: bytes, version: str, method: str) -> tuple[h11.Response, bytes]:
    """Return the answer as a client reads it; only a client of HTTP/1.0 sees the end of the connection."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    if version == "1.0":
        client.receive_data(b"")
    response, body = client.next_event(), b""
    assert isinstance(response, h11.Response)
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        assert isinstance(event, h11.Data)
        body += bytes(event.data)
    assert client.trailing_data[0] == b""
    return response, body


@given(
    PARTS,
    st.sampled_from(["1.1", "1.0"]),
    st.sampled_from(["GET", "HEAD"]),
    st.sampled_from([200, 204, 299, 304, 404, 503]),
    st.booleans(),
)
def test_any_answer_is_read_as_it_was_sent(
    parts: list[bytes],
    version: str,
    method: str,
    status: int,
    is_announced: bool,  # noqa: FBT001 - Hypothesis gives it
) -> None:
    length = (b"content-length", b"%d" % sum(map(len, parts)))
    data = encode(status, [(b"x", b"y"), *([length] if is_announced else [])], parts, version, method)
    response, body = read(data, version, method)
    assert response.status_code == status
    assert {(b"x", b"y"), (b"date", DATE[6:-2]), *STANDARD_HEADERS.items()} <= set(response.headers)
    assert body == (b"" if method == "HEAD" or status in {204, 304} else b"".join(parts))


@pytest.mark.parametrize("header", [(b"x", b"a\r\nset-cookie: b"), (b"x\nz", b"a"), (b"x", b"a\rb")])
def test_a_header_cannot_become_two(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="line break"):
        encode(200, [header], [b""], "1.1", "GET")


@pytest.mark.parametrize("name", STANDARD_HEADERS)
def test_an_app_may_send_its_own_value_of_a_standard_header(name: bytes) -> None:
    response, _ = read(encode(200, [(name.title(), b"own")], [b""], "1.1", "GET"), "1.1", "GET")
    sent = [(key, value) for key, value in response.headers if key in STANDARD_HEADERS]
    assert sorted(sent) == sorted((STANDARD_HEADERS | {name: b"own"}).items())


def test_a_body_has_the_announced_length() -> None:
    with pytest.raises(ValueError, match="longer"):
        encode(200, [(b"Content-Length", b"2")], [b"12", b"3"], "1.1", "GET")
    answer = Answer()
    answer.encode_head({"status": 200, "headers": [(b"content-length", b"2")]}, "GET", "1.1", DATE, None)
    answer.encode_body(b"1", is_last=True)
    assert not answer.is_whole


@pytest.mark.parametrize(
    ("header", "closes"), [((b"Connection", b"close"), True), ((b"connection", b"keep-alive"), False)]
)
def test_an_app_may_close_the_connection(header: tuple[bytes, bytes], *, closes: bool) -> None:
    answer = Answer()
    head = answer.encode_head({"status": 200, "headers": [header]}, "GET", "1.1", DATE, 0)
    assert answer.closes is closes
    assert head.lower().count(b"connection:") == (1 if closes else 0)


def test_the_framing_of_a_body_does_not_depend_on_the_app() -> None:
    response, body = read(encode(200, [(b"Transfer-Encoding", b"chunked")], [b"a", b"b"], "1.1", "GET"), "1.1", "GET")
    assert body == b"ab"
    assert [value for name, value in response.headers if name == b"transfer-encoding"] == [b"chunked"]
    assert b"content-length" not in encode(204, [(b"content-length", b"0")], [b""], "1.1", "GET")


def test_a_refusal_states_its_reason() -> None:
    response, body = read(encode_refusal(Refused(HTTPStatus.BAD_REQUEST, "No."), DATE), "1.1", "GET")
    assert (response.status_code, body) == (400, b"No.")
    assert {(b"connection", b"close"), *STANDARD_HEADERS.items()} <= set(response.headers)
