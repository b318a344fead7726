"""TLS handshakes begin one by one, and addresses take turns."""

import asyncio

import pytest

from comms_api.http1.handshakes import HandshakeQueue

pytestmark = pytest.mark.anyio


async def test_a_client_waits_for_one_handshake_of_each_other_address_however_many_connections_that_has() -> None:
    queue, begun = HandshakeQueue(), list[str]()

    async def begin(group: str) -> None:
        await queue.wait_for_turn(group)
        begun.append(group)

    waiting = [asyncio.create_task(begin(group)) for group in ("loud",) * 5 + ("quiet", "other")]
    await asyncio.gather(*waiting)
    assert begun == ["loud", "quiet", "other", "loud", "loud", "loud", "loud"]


async def test_one_handshake_begins_in_each_cycle_of_the_event_loop() -> None:
    queue, begun = HandshakeQueue(), list[int]()

    async def begin(number: int) -> None:
        await queue.wait_for_turn("loud")
        begun.append(number)

    waiting = [asyncio.create_task(begin(number)) for number in range(5)]
    most, before = 0, 0
    while len(begun) < 5:
        await asyncio.sleep(0)
        most, before = max(most, len(begun) - before), len(begun)
    assert most == 1
    await asyncio.gather(*waiting)


async def test_connections_that_were_given_up_take_no_turn() -> None:
    queue = HandshakeQueue()
    waiting = [asyncio.create_task(queue.wait_for_turn(group)) for group in ("loud", "loud", "quiet")]
    await asyncio.sleep(0)
    waiting[0].cancel()
    waiting[1].cancel()
    await waiting[2]
    await queue.wait_for_turn("loud")
