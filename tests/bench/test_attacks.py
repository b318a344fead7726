"""Attacks of the bench are sent completely, and a replay sends them at the same times."""

import asyncio
from pathlib import Path

import pytest
from support.waiting import PATIENCE

from bench.attacker import Attacker, Plan, Start
from bench.attacks import Lane
from bench.hostile import shot
from bench.innocent import discarding
from comms_api.app.certificates import find_certificate
from comms_api.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("times", [0, 1, 21_845, 100_000])
def test_a_shot_is_sent_in_parts_that_are_the_whole(times: int) -> None:
    body = shot("POST", "/login", body=b"{", fill=b"abc", times=times)
    sent = b"".join(body.parts())
    assert sent == body.head + b"abc" * times
    assert body.size() == len(sent)
    assert b"Content-Length: %d\r\n" % (1 + 3 * times) in sent


async def test_an_attack_is_replayed_whole_to_a_server_that_discards_it(tmp_path: Path) -> None:
    find_certificate(Settings(certs_dir=tmp_path))
    lane = Lane(0, [shot("POST", "/login", body=b"{}"), shot("PUT", "/large", fill=b"x", times=1_000_000)])
    starts = [Start(0.0, 0, 0), Start(0.01, 0, 1), Start(0.02, 0, 0)]
    async with discarding(tmp_path) as port, asyncio.timeout(PATIENCE):
        attacker = Attacker(Plan(str(tmp_path / "ca.pem"), [lane], starts, port))
        await attacker.run()
    report = attacker.report()
    assert [start.shot for start in report.starts] == [0, 1, 0]
    assert report.bytes_sent == sum(lane.shots[start.shot].size() for start in starts)
