"""The agent's polls are answered while a disk hangs: log files and the spool are read in other threads."""

import asyncio
import os
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from support.agents import Agent
from support.batches import command
from support.scripted import ScriptedServer
from support.server import Server
from support.waiting import PATIENCE, wait_until

from comms_api.client.log_files.follower import Follower
from comms_api.client.spool.model import Identity
from comms_api.client.spool.thread import SpoolThread
from comms_api.client.threads import Worker
from comms_api.client.transport.calls import Call
from comms_api.client.transport.endpoint import Endpoint
from comms_api.client.transport.servers import Servers
from comms_api.client.transport.session import Session


def test_a_poll_is_answered_while_the_lines_of_a_log_file_wait_for_a_locked_spool(tmp_path: Path) -> None:
    (tmp_path / "app.log").write_text("line\n")
    answers = [(200, b'{"token":"opaque"}'), (200, b'{"commands":[]}')]
    server, spool = ScriptedServer(tmp_path, answers), SpoolThread(tmp_path / "spool.sqlite", 2**20)
    spool.wait(spool.file.connection.execute, f"PRAGMA busy_timeout = {PATIENCE * 1000:.0f}")
    follower, reader = Follower((str(tmp_path / "*.log"),), spool, from_start=True), Worker("log files")
    other = sqlite3.connect(tmp_path / "spool.sqlite", isolation_level=None)

    async def conversation(url: str) -> None:
        async with Servers([Endpoint(url, server.ca)], "a", spool, 600) as servers:
            other.execute("BEGIN IMMEDIATE")
            collecting = asyncio.create_task(reader.run(list, follower.collect(follower.find_paths())))
            await Session(servers, Identity(str(uuid4()), "k" * 32), spool).send(Call("GET", "/commands"))
            assert not collecting.done()
            other.execute("ROLLBACK")
            assert await collecting == [1]

    asyncio.run(server.talk(conversation))
    assert spool.wait(spool.file.statistics).logins == 1
    other.close()
    reader.end(follower.close)
    spool.close()


class HangingDisk:
    """Blocks the thread of an agent's spool: a full pipe replaces the next file that it writes."""

    def __init__(self, agent: Agent) -> None:
        path = agent.folder / "data" / "statistics.new"
        wait_until(lambda: _make_pipe(path))
        self._pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        with suppress(BlockingIOError):
            while True:
                os.write(self._pipe, bytes(1024))
        with agent.log_file.open("a") as file:
            file.write("this changes the statistics\n")
        wait_until(lambda: _has_open(agent.process.pid, path))

    def recover(self) -> None:
        with suppress(BlockingIOError):
            while True:
                os.read(self._pipe, 2**20)


def _make_pipe(path: Path) -> bool:
    with suppress(FileExistsError):  # the agent is writing the file
        os.mkfifo(path)
        return True
    return False


def _has_open(pid: int, path: Path) -> bool:
    with suppress(FileNotFoundError):  # a file has just been closed
        return any(file.readlink() == path for file in Path(f"/proc/{pid}/fd").iterdir())
    return False


@pytest.fixture
def agent(server: Server, folder: Path) -> Iterator[Agent]:
    started = Agent(server, folder, f"agent-{uuid4()}", "--no-inventory")
    wait_until(lambda: started.statistics().get("logins"))
    yield started
    started.stop()


def test_an_order_arrives_while_the_disk_hangs_and_is_executed_afterwards(
    management: httpx.Client, agent: Agent
) -> None:
    [shown] = management.get("/agents", params={"name": agent.folder.name}).json()["items"]
    disk = HangingDisk(agent)
    created = management.post("/commands", json=command(shown["id"], action="ping")).json()
    url = f"/orders/{created['commands'][0]['order_ids'][0]}"
    wait_until(lambda: management.get(url).json()["status"] == "sent")
    disk.recover()
    wait_until(lambda: management.get(url).json()["status"] == "success")


def test_sigterm_ends_an_agent_whose_disk_hangs(agent: Agent) -> None:
    HangingDisk(agent)
    assert agent.stop() == 0
