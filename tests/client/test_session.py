"""The agent retries, logs in again or ends, depending on the answers of failing servers and of proxies."""

import asyncio
import re
from collections.abc import Callable, Collection, Coroutine
from pathlib import Path
from threading import Event
from uuid import uuid4

import pytest
from support.scripted import Answer, ScriptedServer
from support.waiting import PATIENCE

from comms_api.client import backoff
from comms_api.client.orders import configuration
from comms_api.client.orders.configuration import Configuration
from comms_api.client.spool.model import Identity
from comms_api.client.spool.thread import SpoolThread
from comms_api.client.transport.calls import Call, Refused
from comms_api.client.transport.endpoint import Endpoint
from comms_api.client.transport.servers import Servers
from comms_api.client.transport.session import Session
from comms_api.errors import Unauthenticated
from comms_api.protocol import AGENT_INSTANCE, ItemResults

TOKEN = b'{"token":"opaque"}'
LOGIN = (200, TOKEN)
BATCH = Call("POST", "/events/stateless", b"{}\n")


@pytest.fixture
def converse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ScriptedServer]:
    """Return a function that uses a session with a server that gives the listed answers."""
    monkeypatch.setattr(backoff, "FIRST_SECONDS", 0.01)

    def run(answers: list[Answer], ask: Callable[[Session], Coroutine[None, None, None]]) -> ScriptedServer:
        server = ScriptedServer(tmp_path, answers)
        spool = SpoolThread(tmp_path / "spool.sqlite", 2**20)

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


def test_each_process_logs_in_with_a_nonce_of_its_own(converse: Callable[..., ScriptedServer]) -> None:
    first, second = (converse([LOGIN, (401, b""), LOGIN, (204, b"")], send).headers(AGENT_INSTANCE) for _ in range(2))
    assert len(set(first)) == len(set(second)) == 1
    assert first[0] != second[0]
    assert re.fullmatch("[0-9a-f]{32}", first[0])


def test_other_work_continues_while_the_files_of_the_groups_are_read(
    converse: Callable[..., ScriptedServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean, has_begun, has_continued = configuration._clean, Event(), Event()  # noqa: SLF001

    def clean_slowly(folder: Path, names: Collection[str]) -> dict[str, str]:
        has_begun.set()
        assert has_continued.wait(PATIENCE)
        return clean(folder, names)

    async def fetch(session: Session) -> None:
        fetching = asyncio.create_task(Configuration(session, tmp_path / "files").fetch())
        while not has_begun.is_set():  # noqa: ASYNC110 - another thread sets it
            await asyncio.sleep(0.001)
        has_continued.set()
        assert await fetching == {}

    monkeypatch.setattr(configuration, "_clean", clean_slowly)
    converse([LOGIN, (200, b'{"files":[]}'), (204, b"")], fetch)
