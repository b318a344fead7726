"""The agent retries, logs in again or ends, depending on the answers of failing servers and of proxies."""

import asyncio
import re
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from uuid import uuid4

import pytest
import trustme
from support.waiting import PATIENCE

from comms_api.client import backoff
from comms_api.client.spool.model import Identity
from comms_api.client.spool.spool import Spool
from comms_api.client.transport.calls import Call, Refused
from comms_api.client.transport.endpoint import Endpoint
from comms_api.client.transport.servers import Servers
from comms_api.client.transport.session import Session
from comms_api.errors import Unauthenticated
from comms_api.protocol import AGENT_INSTANCE, ItemResults

TOKEN = b'{"token":"opaque"}'
LOGIN = (200, TOKEN)
BATCH = Call("POST", "/events/stateless", b"{}\n")

Answer = tuple[int, bytes]


class ScriptedServer:
    """A server on a real socket that returns the configured answers, one per request, and then does not answer."""

    def __init__(self, folder: Path, answers: list[Answer]) -> None:
        authority = trustme.CA()
        self.ca = folder / "ca.pem"
        authority.cert_pem.write_to_path(self.ca)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(self._tls)
        self.answers = answers
        self.heads: list[str] = []

    @property
    def paths(self) -> list[str]:
        return [head.split(" ")[1] for head in self.heads]

    def headers(self, name: str) -> list[str]:
        """Return the values of a header, one per request that has it."""
        lines = (line.partition(": ") for head in self.heads for line in head.split("\r\n"))
        return [value for key, _, value in lines if key.lower() == name.lower()]

    async def talk(self, conversation: Callable[[str], Coroutine[None, None, None]]) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        async with server, asyncio.timeout(PATIENCE):
            await conversation(f"https://localhost:{server.sockets[0].getsockname()[1]}")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        await reader.readexactly(int(head.lower().partition("content-length: ")[2].partition("\r\n")[0] or 0))
        self.heads.append(head)
        if self.answers:
            status, body = self.answers.pop(0)
            writer.write(f"HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode())
            writer.write(body)
        writer.close()


@pytest.fixture
def converse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ScriptedServer]:
    """Return a function that uses a session with a server that gives the listed answers."""
    monkeypatch.setattr(backoff, "FIRST_SECONDS", 0.01)

    def run(answers: list[Answer], ask: Callable[[Session], Coroutine[None, None, None]]) -> ScriptedServer:
        server = ScriptedServer(tmp_path, answers)
        spool = Spool(tmp_path / "spool.sqlite", 2**20)

        async def conversation(url: str) -> None:
            identity = Identity(str(uuid4()), "k" * 32)
            async with Servers([Endpoint(url, server.ca)], identity.id, spool, 600) as servers:
                await ask(Session(servers, identity, spool))

        try:
            asyncio.run(server.talk(conversation))
        finally:
            spool.close()
        assert not server.answers
        return server

    return run


async def send(session: Session) -> None:
    await session.send(BATCH)


@pytest.mark.parametrize("status", [302, 404, 405, 408, 409, 429, 500, 502, 507, 521])
def test_a_request_is_retried_unless_the_answer_blames_the_request(
    converse: Callable[..., ScriptedServer], status: int
) -> None:
    server = converse([LOGIN, (status, b"<html>"), (status, b""), (204, b"")], send)
    assert server.paths == ["/login", *["/events/stateless"] * 3]


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_a_request_that_the_server_refuses_as_invalid_is_not_retried(
    converse: Callable[..., ScriptedServer], status: int
) -> None:
    async def refused(session: Session) -> None:
        with pytest.raises(Refused, match=str(status)):
            await session.send(BATCH)

    converse([LOGIN, (status, b'{"detail":"why"}')], refused)


@pytest.mark.parametrize("status", [401, 403])
def test_after_a_refusal_that_is_not_the_servers_the_agent_logs_in_again(
    converse: Callable[..., ScriptedServer], status: int
) -> None:
    server = converse([(status, b"<html>proxy"), LOGIN, (status, b"\xff"), LOGIN, (204, b"")], send)
    assert server.paths.count("/login") == 3


def test_a_request_with_an_unreadable_answer_is_retried(converse: Callable[..., ScriptedServer]) -> None:
    async def ask(session: Session) -> None:
        assert (await session.ask(BATCH, ItemResults)).results == []

    converse([(200, b"<html>"), LOGIN, (200, b"<html>"), (200, b'{"results":[]}')], ask)


@pytest.mark.parametrize("message", ["Invalid key", "Agent does not exist"])
def test_an_agent_that_the_server_no_longer_knows_ends(converse: Callable[..., ScriptedServer], message: str) -> None:
    async def ended(session: Session) -> None:
        with pytest.raises(Unauthenticated, match=message):
            await session.send(BATCH)

    converse([(403, f'{{"message":"{message}"}}'.encode())], ended)


def test_each_process_logs_in_with_its_own_nonce_and_that_of_its_predecessor(
    converse: Callable[..., ScriptedServer],
) -> None:
    first, second = (converse([LOGIN, (401, b""), LOGIN, (204, b"")], send).headers(AGENT_INSTANCE) for _ in range(2))
    assert len(set(first)) == len(set(second)) == 1
    assert re.fullmatch("[0-9a-f]{32}", first[0])
    assert re.fullmatch(f"(?!{first[0]})[0-9a-f]{{32}}; after={first[0]}", second[0])


def test_a_process_without_a_successful_login_is_not_a_predecessor(converse: Callable[..., ScriptedServer]) -> None:
    async def ended(session: Session) -> None:
        with pytest.raises(Unauthenticated):
            await session.send(BATCH)

    converse([(401, b'{"message":"Invalid key"}')], ended)
    assert "after" not in converse([LOGIN, (204, b"")], send).headers(AGENT_INSTANCE)[0]
