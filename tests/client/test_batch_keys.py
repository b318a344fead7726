"""The agent sends a batch with the same key and body until the server has answered, also after a crash."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import uuid4

import pytest
from support.scripted import Answer, ScriptedServer
from support.waiting import until

from comms_api.client import backoff
from comms_api.client.spool.model import Change, FilePosition, Identity, Line, Statistics
from comms_api.client.spool.spool import Spool
from comms_api.client.spool.thread import SpoolThread
from comms_api.client.transport.endpoint import Endpoint
from comms_api.client.transport.senders import ChangeSender, LineSender
from comms_api.client.transport.servers import Servers
from comms_api.client.transport.session import Session
from comms_api.protocol import AgentMetadata

LOGIN = (200, b'{"token":"opaque"}')
STORED = (204, b"")
KEY_REUSED = (422, b'{"code":2721,"detail":"used"}')


class Sent:
    """The batches that a server got from an agent, and the agent's counters."""

    def __init__(self, server: ScriptedServer, statistics: Statistics) -> None:
        self.keys = server.headers("Idempotency-Key")
        self.sequences = server.headers("Batch-Sequence")
        self.bodies = [body for body, path in zip(server.bodies, server.paths, strict=True) if "events" in path]
        self.statistics = statistics


def collect_lines(spool: Spool, ids: Sequence[str]) -> None:
    lines = [Line(0, "m", "c", b'{"line":"%b"}' % id_.encode()) for id_ in ids]
    spool.lines.add(FilePosition("/", 1, "log", 0), lines)


def collect_changes(spool: Spool, ids: Sequence[str]) -> None:
    spool.changes.add((Change("fim", "", id_, "create", b"{}"), b"digest") for id_ in ids)


def run_agent(
    folder: Path,
    answers: Sequence[Answer],
    ids: Sequence[str],
    collect: Callable[[Spool, Sequence[str]], None] = collect_lines,
    *,
    dies: bool = False,
) -> Sent:
    """Collect items and send them all, or, if the agent dies, until the server has given its last answer.

    An agent that dies does so before its next attempt. Its version, which each batch has in its first line, is made of
    the ids.
    """
    server, spool = ScriptedServer(folder, [LOGIN, *answers]), SpoolThread(folder / "spool.sqlite", 2**20)

    def describe_agent() -> AgentMetadata:
        return AgentMetadata("a", version="".join(ids))

    async def conversation(url: str) -> None:
        await spool.run(collect, spool.file, ids)
        async with Servers([Endpoint(url, server.ca)], "a", spool, 600) as servers:
            session = Session(servers, Identity(str(uuid4()), "k" * 32), spool)
            kind = LineSender if collect is collect_lines else ChangeSender
            sender = kind(session, spool, describe_agent)
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(sender.drain())
                if dies:
                    await until(lambda: not server.answers)
                    sending.cancel()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backoff, "FIRST_SECONDS", 60.0 if dies else 0.01)
        asyncio.run(server.talk(conversation))
    sent = Sent(server, spool.wait(spool.file.statistics))
    spool.close()
    return sent


def test_a_retried_batch_keeps_its_key_and_the_next_batch_has_another(tmp_path: Path) -> None:
    failed = run_agent(tmp_path, [(503, b""), (500, b"<html>"), STORED], ["a"])
    assert len(failed.keys) == 3
    assert len(set(failed.keys)) == len(set(failed.bodies)) == 1
    later = run_agent(tmp_path, [STORED], ["b"])
    assert later.keys[0] not in failed.keys
    assert later.statistics.events_sent == 2


def test_after_a_crash_a_batch_has_the_same_key_and_body_whatever_has_changed_since_then(tmp_path: Path) -> None:
    before = run_agent(tmp_path, [(503, b"")], ["a", "b"], dies=True)
    after = run_agent(tmp_path, [STORED, STORED], ["c"])
    assert after.keys[0] == before.keys[0] != after.keys[1]
    assert after.bodies[0] == before.bodies[0]
    assert after.bodies[1].splitlines()[1:] == [b'{"module":"m","collector":"c"}', b'{"line":"c"}']
    assert b'"version":"c"' in after.bodies[1]
    assert after.statistics.events_sent == 3


def test_after_a_crash_a_batch_of_changes_also_keeps_its_number(tmp_path: Path) -> None:
    def results(*ids: str) -> Answer:
        outcomes = ",".join(f'{{"index":0,"id":"{id_}","result":"created","status":201}}' for id_ in ids)
        return 200, f'{{"results":[{outcomes}]}}'.encode()

    before = run_agent(tmp_path, [(503, b"")], ["a", "b"], collect=collect_changes, dies=True)
    after = run_agent(tmp_path, [results("a", "b"), results("c")], ["c"], collect_changes)
    assert (after.keys[0], after.bodies[0]) == (before.keys[0], before.bodies[0])
    assert (before.sequences, after.sequences) == (["1"], ["1", "2"])
    assert after.keys[1] != after.keys[0]
    assert after.statistics.states_sent == 3


def test_a_batch_whose_key_is_used_for_another_one_is_sent_whole_under_a_new_key(tmp_path: Path) -> None:
    sent = run_agent(tmp_path, [KEY_REUSED, STORED], ["a"])
    assert sent.keys[0] != sent.keys[1]
    assert sent.bodies[0] == sent.bodies[1]
    assert (sent.statistics.events_sent, sent.statistics.events_dropped) == (1, 0)


def test_the_halves_of_a_refused_batch_have_keys_of_their_own(tmp_path: Path) -> None:
    sent = run_agent(tmp_path, [(413, b""), STORED, STORED], ["a", "b"])
    assert len(set(sent.keys)) == 3
    assert sent.statistics.events_sent == 2


def test_lines_in_flight_at_a_crash_are_not_dropped_for_lack_of_room(tmp_path: Path) -> None:
    run_agent(tmp_path, [(503, b"")], ["kept"], dies=True)
    spool = Spool(tmp_path / "spool.sqlite", 100)
    collect_lines(spool, [f"{number:090}" for number in range(3)])
    assert [line.event for line in spool.lines.next_batch(10)] == [b'{"line":"kept"}']
    assert spool.statistics().events_dropped == 3
    spool.close()
