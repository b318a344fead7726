"""Names of receivers are resolved side by side, each within a time limit."""

import asyncio
from collections.abc import Sequence
from threading import Event

import pytest

from comms_api.webhooks import resolver
from comms_api.webhooks.model import WEBHOOKS_MAXIMUM, DeliveryFailed
from comms_api.webhooks.resolver import Resolver


class NameServer:
    """Answers `good`, never answers names that begin with `stuck` until `released`, and counts the look-ups."""

    def __init__(self) -> None:
        self.released = Event()
        self.lookups: list[bytes] = []

    def look_up(self, host: bytes) -> Sequence[str]:
        self.lookups.append(host)
        if host.startswith(b"stuck"):
            self.released.wait()
        if host == b"unknown":
            raise OSError("Name or service not known")
        return ["192.0.2.1"]


@pytest.mark.anyio
async def test_names_that_are_never_resolved_delay_no_other() -> None:
    server = NameServer()
    names = Resolver(server.look_up)
    waiting = [asyncio.create_task(names.resolve(b"stuck-%d" % number)) for number in range(WEBHOOKS_MAXIMUM - 1)]
    try:
        assert await names.resolve(b"good") == ["192.0.2.1"]
        with pytest.raises(OSError, match="not known"):
            await names.resolve(b"unknown")
        assert not any(task.done() for task in waiting)
    finally:
        server.released.set()
    assert await asyncio.gather(*waiting) == [["192.0.2.1"]] * len(waiting)


@pytest.mark.anyio
async def test_a_name_that_hangs_fails_in_time_and_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "RESOLUTION_SECONDS", 0.05)
    server = NameServer()
    names = Resolver(server.look_up)
    try:
        for _ in range(2):
            with pytest.raises(DeliveryFailed, match="stuck was not resolved"):
                await names.resolve(b"stuck")
        assert server.lookups == [b"stuck"]
    finally:
        server.released.set()
