"""Unix sockets of key requests: the protocol, and each of its failures."""

import asyncio
from pathlib import Path

import pytest
from support.serving import serving
from support.sources import ASKED, KEY, agent_json, always, answering, never, refusal_json
from support.waiting import PATIENCE

from comms_api.key_requests.answers import BadAnswer
from comms_api.key_requests.model import ExternalAgent, Question, Refusal
from comms_api.key_requests.sources.sockets import SocketSource
from comms_api.key_requests.sources.source import SourceUnavailable

pytestmark = pytest.mark.anyio

MAXIMUM = 4096


async def ask(path: Path, question: Question = ASKED, seconds: float = PATIENCE) -> ExternalAgent | Refusal:
    return await SocketSource(path, MAXIMUM).ask(question, seconds)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
async def test_the_answer_ends_with_a_line_or_with_the_connection(path: Path, end: bytes) -> None:
    async with answering(path, always(agent_json() + end)) as received:
        assert await ask(path) == ExternalAgent("001", "web-1", "any", KEY)
    assert received == ["id:001"]


async def test_a_question_by_address_reaches_the_socket(path: Path) -> None:
    async with answering(path, always(refusal_json())) as received:
        assert await ask(path, Question("ip", "192.168.1.100")) == Refusal(4, "no such agent")
        assert await ask(path, Question("ip", "2001:db8::1")) == Refusal(4, "no such agent")
    assert received == ["ip:192.168.1.100", "ip:2001:db8::1"]


async def test_a_line_is_enough_even_if_the_connection_stays_open(path: Path) -> None:
    async def answer_and_stay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        for byte in agent_json() + b"\n":
            writer.write(bytes([byte]))
            await writer.drain()
        await reader.read()
        writer.close()

    async with serving(answer_and_stay, path):
        assert isinstance(await ask(path), ExternalAgent)


@pytest.mark.parametrize(
    "answer",
    [
        agent_json()[:20],
        agent_json() + b"\n" + agent_json(),
        agent_json() + agent_json(),
        agent_json(id="002"),
        agent_json(key="k" * 129),
        b"\n",
        b"not json\n",
        b"\0" * 10,
        b"x" * (MAXIMUM + 1),
        b" " * 1_000_000,
    ],
)
async def test_a_hostile_answer_is_a_bad_answer(path: Path, answer: bytes) -> None:
    async with answering(path, always(answer)):
        with pytest.raises(BadAnswer):
            await ask(path)


async def test_a_hanging_socket_is_abandoned_at_the_deadline(path: Path) -> None:
    async with answering(path, never):
        with pytest.raises(SourceUnavailable) as failed:
            await ask(path, seconds=0.2)
    assert failed.value.reason == f"{path} did not answer within 0.2 s"


async def test_a_slowly_answering_socket_is_abandoned_at_the_deadline(path: Path) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        while not writer.is_closing():
            writer.write(b" ")
            await asyncio.sleep(0.02)

    async with serving(drip, path):
        with pytest.raises(SourceUnavailable, match="try again later"):
            await ask(path, seconds=0.2)


async def test_a_socket_that_closes_at_once_is_unavailable(path: Path) -> None:
    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with serving(close, path):
        with pytest.raises(SourceUnavailable):
            await ask(path)


async def test_a_missing_and_a_dead_socket_are_unavailable(path: Path) -> None:
    with pytest.raises(SourceUnavailable) as failed:
        await ask(path)
    assert failed.value.reason == f"{path}: No such file or directory"
    async with answering(path, always(b"")):
        pass
    with pytest.raises(SourceUnavailable):
        await ask(path)
