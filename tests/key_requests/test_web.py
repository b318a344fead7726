"""Agents are looked up at a web service, over TLS that is checked, without redirects, in bounded time and bytes."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from support.serving import serving
from support.sources import ASKED, KEY, agent_json, refusal_json, settings
from support.waiting import PATIENCE

from comms_api.errors import ConfigurationError
from comms_api.key_requests.answers import BadAnswer
from comms_api.key_requests.model import ExternalAgent, Question, Refusal
from comms_api.key_requests.sources.source import SourceUnavailable
from comms_api.key_requests.sources.web import WebSource

pytestmark = pytest.mark.anyio

SECRET = "Bearer s3cret-of-the-node"
OK, FOUND, MISSING = b"200 OK", b"302 Found", b"404 Not Found"

Respond = Callable[[str], Awaitable[tuple[bytes, bytes]]]


class Service:
    """A web service with a certificate; it keeps the heads of requests."""

    def __init__(self, folder: Path) -> None:
        self.authority, self.heads = trustme.CA(), list[str]()
        self.ca = folder / "ca.pem"
        self.authority.cert_pem.write_to_path(str(self.ca))
        self.header = folder / "header"
        self.header.write_text(f"Authorization: {SECRET}\n")
        self.port = 0

    @asynccontextmanager
    async def responding(
        self, status: bytes, body: bytes, *, ends: bool = True, is_encrypted: bool = True
    ) -> AsyncIterator[None]:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            length = len(body) if ends else len(body) + 1
            head = b"HTTP/1.1 %b\r\nLocation: /elsewhere\r\nContent-Length: %d\r\n\r\n" % (status, length)
            if is_encrypted:
                writer.write(head + body)
            else:
                os.write(writer.get_extra_info("socket").fileno(), head + body)

        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.authority.issue_cert("localhost").configure_cert(context)
        async with serving(handle, tls=context) as self.port:
            yield

    async def ask(self, question: Question = ASKED, seconds: float = PATIENCE, **changes: object) -> object:
        configured = settings(**{"ca": self.ca, "header_file": self.header} | changes)
        source = WebSource(f"https://localhost:{self.port}/agents?site=1", configured)
        try:
            return await source.ask(question, seconds)
        finally:
            await source.close()


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(tmp_path)


async def test_the_body_is_the_answer(service: Service) -> None:
    async with service.responding(OK, agent_json()):
        assert await service.ask() == ExternalAgent("001", "web-1", "any", KEY)
        await service.ask(Question("ip", "2001:db8::1"))
    async with service.responding(OK, refusal_json()):
        assert await service.ask() == Refusal(4, "no such agent")
    assert service.heads[0].startswith("GET /agents?site=1&id=001 HTTP/1.1\r\n")
    assert service.heads[1].startswith("GET /agents?site=1&ip=2001%3Adb8%3A%3A1 HTTP/1.1\r\n")
    assert f"\r\nAuthorization: {SECRET}\r\n" in service.heads[0]


async def test_a_certificate_of_another_authority_is_refused(service: Service, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    async with service.responding(OK, agent_json()):
        for authorities in (other, None):
            with pytest.raises(SourceUnavailable) as failed:
                await service.ask(ca=authorities)
            assert "CERTIFICATE_VERIFY_FAILED" in failed.value.reason
    assert service.heads == []


@pytest.mark.parametrize("status", [FOUND, MISSING])
async def test_a_redirect_and_any_other_status_are_unavailable(service: Service, status: bytes) -> None:
    async with service.responding(status, refusal_json()):
        with pytest.raises(SourceUnavailable) as failed:
            await service.ask()
    assert failed.value.reason == f"localhost answered with status {status[:3].decode()}"
    assert len(service.heads) == 1


async def test_a_large_answer_and_a_slow_answer_are_stopped(service: Service) -> None:
    async with service.responding(OK, b"x" * 1_000_000, ends=False):
        with pytest.raises(BadAnswer):
            await service.ask()
    async with service.responding(OK, b"{", ends=False):
        with pytest.raises(SourceUnavailable) as failed:
            await service.ask(seconds=0.5)
    assert failed.value.reason == "localhost did not answer within 0.5 s"


async def test_an_answer_that_breaks_tls_is_unavailable(service: Service) -> None:
    async with service.responding(OK, agent_json(), is_encrypted=False):
        with pytest.raises(SourceUnavailable) as failed:
            await service.ask()
    assert failed.value.reason.startswith("localhost: SSLError: ")


async def test_no_log_has_the_header(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    async with service.responding(OK, agent_json()):
        await service.ask()
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("https://user:pa55@keys.example.org/", "must not contain a user"),
        ("http://keys.example.org/", "must begin with https://"),
        ("ftp://keys.example.org/pa55", "not a URL"),
        ("pa55", "not a URL"),
        ("https://xn--pa55/", "not a URL"),
    ],
)
async def test_a_wrong_url_is_refused_without_quoting_it(url: str, fault: str) -> None:
    with pytest.raises(ConfigurationError, match=fault) as refused:
        WebSource(url, settings())
    assert "pa55" not in refused.value.detail


@pytest.mark.parametrize("content", ["", "s3cret", "A: s3cret\nB: s3cret", "Na me: s3cret", "é: s3cret"])
async def test_a_wrong_header_file_is_refused_without_quoting_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "header"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match="header_file") as refused:
        WebSource("https://localhost/", settings(header_file=path))
    assert "s3cret" not in refused.value.detail
