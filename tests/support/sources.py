"""Build sources of agents, correct or faulty: programs, and sockets that answer."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from comms_api.key_requests.model import KeySettings, Question
from comms_api.key_requests.requests import KeyRequests
from support.serving import serving
from support.waiting import PATIENCE

KEY = "k3y-that-no-log-may-hold"
ASKED = Question("id", "001")

Answering = Callable[[str], Awaitable[bytes]]


def agent(**changes: Any) -> dict[str, Any]:
    return {"error": 0, "data": {"id": "001", "name": "web-1", "ip": "any", "key": KEY} | changes}


def agent_json(**changes: Any) -> bytes:
    return json.dumps(agent(**changes)).encode()


def refusal_json(code: int = 4, message: str = "no such agent") -> bytes:
    return json.dumps({"error": code, "message": message}).encode()


def script(folder: Path, *lines: str) -> tuple[str]:
    """Write a program that gets the kind and the value as `$1` and `$2`, and return its command."""
    path = folder / f"program-{len(list(folder.iterdir()))}.sh"
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return (str(path),)


def plain_file(folder: Path, content: bytes = b"#!/bin/sh\n", mode: int = 0o644) -> str:
    """Write a file that cannot be executed, and return its path."""
    path = folder / f"plain-{len(list(folder.iterdir()))}"
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


def echo(answer: bytes) -> str:
    """Return the line of a script that prints an answer."""
    return f"printf '%s\\n' '{answer.decode()}'"


def settings(program: tuple[str, ...] = (), socket: Path | None = None, **changes: Any) -> KeySettings:
    return KeySettings(**{"program": program, "socket": socket, "timeout_seconds": PATIENCE} | changes)


@asynccontextmanager
async def asking_program(
    program: tuple[str, ...], socket: Path | None = None, **changes: Any
) -> AsyncIterator[KeyRequests]:
    """Make key requests with a program for the block."""
    requests = KeyRequests(settings(program, socket, **changes))
    try:
        yield requests
    finally:
        await requests.close()


@asynccontextmanager
async def answering(path: Path, answer: Answering) -> AsyncIterator[list[str]]:
    """Serve one answer per connection, then close it; yield the requests."""
    received: list[str] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if request := (await reader.read(1024)).decode():
            received.append(request)
            writer.write(await answer(request))
        writer.close()

    async with serving(handle, path):
        yield received


def always(answer: bytes) -> Answering:
    """Answer every request alike."""

    async def repeat(_: str) -> bytes:
        return answer

    return repeat


async def never(_: str) -> bytes:
    """Do not answer."""
    await asyncio.sleep(3600)
    return b""


async def by_id(request: str) -> bytes:
    """Answer with an agent of the requested id."""
    return agent_json(id=request.removeprefix("id:"))
