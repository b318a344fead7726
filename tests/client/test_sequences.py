"""Batches are numbered, so that an agent with an outdated spool notices it and catches up."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from support.server import KEY, Server

from comms_api.client.spool.model import Change, Identity
from comms_api.client.spool.thread import SpoolThread
from comms_api.client.transport.endpoint import Endpoint
from comms_api.client.transport.senders import ChangeSender
from comms_api.client.transport.servers import Servers
from comms_api.client.transport.session import Session
from comms_api.protocol import AgentMetadata, Operation


@pytest.fixture(scope="module")
def agent_id(server: Server, management: httpx.Client) -> UUID:
    return server.enroll(management, "numbered")


@contextmanager
def opened_spool(path: Path) -> Iterator[SpoolThread]:
    spool = SpoolThread(path, 2**20)
    yield spool
    spool.close()


@asynccontextmanager
async def opened_sender(server: Server, agent_id: UUID, spool: SpoolThread) -> AsyncIterator[ChangeSender]:
    endpoint = Endpoint(server.agent_url, server.folder / "certs" / "ca.pem")
    async with Servers([endpoint], str(agent_id), spool, 600) as servers:
        session = Session(servers, Identity(str(agent_id), KEY), spool)
        yield ChangeSender(session, spool, lambda: AgentMetadata(str(agent_id)))


def collect(spool: SpoolThread, id_: str, operation: Operation, version: int = 0) -> None:
    data = None if operation == "delete" else b'{"v":%d}' % version
    spool.wait(spool.file.changes.add, [(Change("inventory", "system", id_, operation, data), b"digest")])


def drain(server: Server, agent_id: UUID, spool: SpoolThread) -> None:
    async def run() -> None:
        async with opened_sender(server, agent_id, spool) as sender:
            await sender.drain()

    asyncio.run(run())


def states(management: httpx.Client, agent_id: UUID) -> dict[str, int]:
    items = management.get("/states", params={"agent_id": str(agent_id)}).json()["items"]
    return {item["id"]: item["data"]["v"] for item in items}


def test_batch_numbers_increase_across_restarts(tmp_path: Path) -> None:
    numbers = []
    for _ in range(2):
        with opened_spool(tmp_path / "spool.sqlite") as spool:
            for id_ in ("a", "b"):
                collect(spool, id_, "create")
                changes = spool.wait(spool.file.changes.next_batch, 10)
                batch = spool.wait(spool.file.changes.open_batch, changes, lambda: AgentMetadata(""))
                numbers.append(batch.sequence)
                spool.wait(spool.file.changes.settle, changes, 0, [])
    assert numbers == [1, 2, 3, 4]


def test_an_agent_restored_from_a_backup_overwrites_no_state_and_collects_all_again(
    server: Server, management: httpx.Client, agent_id: UUID, tmp_path: Path
) -> None:
    path, backup = tmp_path / "spool.sqlite", tmp_path / "backup.sqlite"
    with opened_spool(path) as spool:
        for id_ in ("kept", "gone"):
            collect(spool, id_, "create", 1)
        drain(server, agent_id, spool)
        collect(spool, "kept", "update", 2)  # unsent when the backup is made
        collect(spool, "gone", "delete")
    shutil.copy(path, backup)
    with opened_spool(path) as spool:
        collect(spool, "kept", "update", 3)
        drain(server, agent_id, spool)
        collect(spool, "kept", "update", 4)
        drain(server, agent_id, spool)
    with opened_spool(backup) as spool:
        drain(server, agent_id, spool)
        assert states(management, agent_id) == {"kept": 4}
        assert spool.wait(spool.file.changes.known, "inventory", "system") == {}
        collect(spool, "kept", "create", 5)
        drain(server, agent_id, spool)
    assert states(management, agent_id) == {"kept": 5}


def test_two_agents_with_one_identity_both_continue(
    server: Server, management: httpx.Client, agent_id: UUID, tmp_path: Path
) -> None:
    async def run(one: SpoolThread, two: SpoolThread) -> None:
        async with opened_sender(server, agent_id, one) as first, opened_sender(server, agent_id, two) as second:
            for number in range(4):
                for spool, sender in ((one, first), (one, first), (two, second)):
                    collect(spool, f"spool {spool.file.lines.bytes_maximum}", "update", number)
                    await sender.drain()
            # Only the first refusal makes an agent collect everything again.
            known = [await spool.run(spool.file.changes.known, "inventory", "system") for spool in (one, two)]
            assert [len(states) for states in known] == [1, 1]

    one, two = SpoolThread(tmp_path / "one.sqlite", 1), SpoolThread(tmp_path / "two.sqlite", 2)
    asyncio.run(run(one, two))
    one.close()
    two.close()
    assert {id_: version for id_, version in states(management, agent_id).items() if id_ != "kept"} == {
        "spool 1": 3,
        "spool 2": 3,
    }
