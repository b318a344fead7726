"""Checks at start-up: sources that can never work are refused by setting, sources that may work later are logged."""

import asyncio
import os
from pathlib import Path

import pytest
from support.serving import serving
from support.sources import always, answering, plain_file, script, settings

from comms_api.errors import ConfigurationError
from comms_api.key_requests.requests import KeyRequests

pytestmark = pytest.mark.anyio


async def check(program: tuple[str, ...] = (), socket: Path | None = None, program_user: str | None = None) -> None:
    await KeyRequests(settings(program, socket, program_user=program_user)).check_health()


async def test_an_existing_program_and_socket_are_accepted(
    tmp_path: Path, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with answering(path, always(b"")):
        await check(script(tmp_path), path, "nobody" if os.getuid() == 0 else None)
    assert not [record for record in caplog.records if record.name.startswith("comms_api")]


async def test_the_check_connects_to_the_socket_and_sends_nothing(path: Path) -> None:
    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.set_result(await reader.read())
        writer.close()

    async with serving(listen, path):
        await check(socket=path)
        assert await heard == b""


async def test_a_missing_socket_logs_a_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    await check(socket=path)
    assert f"nothing answers on the socket of key requests yet: {path}" in caplog.text


async def test_a_file_that_is_not_a_socket_is_refused(tmp_path: Path) -> None:
    (program,) = script(tmp_path)
    with pytest.raises(ConfigurationError, match=f"^socket: {program} is not a socket"):
        await check(socket=Path(program))


async def test_a_missing_program_or_script_is_refused(tmp_path: Path) -> None:
    for program in [(f"{tmp_path}/missing",), ("/bin/sh", f"{tmp_path}/missing")]:
        with pytest.raises(ConfigurationError, match=f"^program: {tmp_path}/missing does not exist"):
            await check(program)


async def test_a_program_that_cannot_be_executed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^program: .* is not executable"):
        await check((plain_file(tmp_path),))
    with pytest.raises(ConfigurationError, match=r"^program: .* is not a file"):
        await check((str(tmp_path),))


async def test_an_unknown_user_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^program_user: there is no user nobody"):
        await check(script(tmp_path), program_user="nobody-of-this-name")


@pytest.mark.skipif(os.getuid() != 0, reason="only root is warned")
async def test_a_program_run_by_root_logs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    await check(script(tmp_path))
    assert "program_user is not set" in caplog.text
