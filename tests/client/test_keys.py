"""An agent's keys stay those of its last change, however many changes run at the same time."""

import asyncio
from pathlib import Path

import pytest

from comms_api.client.spool.model import Identity
from comms_api.client.spool.thread import SpoolThread
from comms_api.client.transport.keys import Keys

pytestmark = pytest.mark.anyio


async def test_a_rotation_that_begins_during_a_login_keeps_the_accepted_key(tmp_path: Path) -> None:
    spool = SpoolThread(tmp_path / "spool.sqlite", 2**20)
    identity = Identity("an id", "the old key", next_key="the next key")
    await spool.run(spool.file.remember_identity, identity)
    keys = Keys(identity, spool)
    _, proposed = await asyncio.gather(keys.accepted("the next key"), keys.propose())
    stored = await spool.run(spool.file.find_identity)
    spool.close()
    assert proposed == stored
    assert stored is not None
    assert stored.key == "the next key"
    assert stored.next_key not in {"", "the old key", "the next key"}
