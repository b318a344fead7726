"""Many callers and few lookups: single flight, the queue, remembered refusals, the fallback and the pause."""

import asyncio
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from support.sources import (
    ASKED,
    KEY,
    agent_json,
    always,
    answering,
    asking_program,
    by_id,
    echo,
    never,
    refusal_json,
    script,
    settings,
)
from support.waiting import PATIENCE, until

from comms_api.errors import CommsError, Unavailable
from comms_api.fairness.slots import Slots
from comms_api.key_requests import circuit_breaker
from comms_api.key_requests.answers import BadAnswer
from comms_api.key_requests.circuit_breaker import CircuitBreaker, CircuitOpen
from comms_api.key_requests.model import ExternalAgent, Question, Refusal
from comms_api.key_requests.requests import KeyRequests
from comms_api.key_requests.sources.sockets import SocketSource
from comms_api.key_requests.sources.source import SourceUnavailable

pytestmark = pytest.mark.anyio


class Clock:
    """A clock that tests advance."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def questions(count: int) -> list[Question]:
    return [Question("id", f"{number:03}") for number in range(count)]


async def test_a_hundred_equal_questions_are_one_lookup(tmp_path: Path) -> None:
    log = tmp_path / "lookups"
    async with asking_program(script(tmp_path, f"echo $2 >>{log}", "sleep 0.1", echo(agent_json()))) as asking:
        answers = await asyncio.gather(*(asking.ask(Question("id", "001")) for _ in range(100)))
    assert {answer.key for answer in answers if isinstance(answer, ExternalAgent)} == {KEY}
    assert len(answers) == 100
    assert log.read_text() == "001\n"
    assert (asking.counters.received, asking.counters.joined, asking.counters.lookups) == (100, 99, 1)
    assert asking.in_flight == 0


async def test_a_success_is_not_remembered(path: Path) -> None:
    async with answering(path, by_id) as received:
        asking = KeyRequests(settings(socket=path))
        for _ in range(2):
            assert isinstance(await asking.ask(ASKED), ExternalAgent)
    assert received == ["id:001", "id:001"]
    assert asking.counters.agents == 2


async def test_all_callers_get_the_failure(path: Path) -> None:
    async with answering(path, always(b"no json")) as received:
        asking = KeyRequests(settings(socket=path))
        outcomes = await asyncio.gather(*(asking.ask(ASKED) for _ in range(10)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [BadAnswer] * 10
    assert len(received) == asking.counters.bad_answers == 1


async def test_a_caller_that_leaves_does_not_cancel_the_others(path: Path) -> None:
    may_answer = asyncio.Event()

    async def later(request: str) -> bytes:
        await may_answer.wait()
        return await by_id(request)

    async with answering(path, later) as received:
        asking = KeyRequests(settings(socket=path))
        first, second = asyncio.create_task(asking.ask(ASKED)), asyncio.create_task(asking.ask(ASKED))
        await until(lambda: received)
        first.cancel()
        may_answer.set()
        assert isinstance(await second, ExternalAgent)
        assert first.cancelled()
    assert len(received) == 1


async def test_a_lookup_continues_after_all_callers_have_left(path: Path) -> None:
    may_answer = asyncio.Event()

    async def later(_: str) -> bytes:
        await may_answer.wait()
        return refusal_json()

    async with answering(path, later) as received:
        asking = KeyRequests(settings(socket=path, refusal_seconds=PATIENCE))
        only = asyncio.create_task(asking.ask(ASKED))
        await until(lambda: received)
        only.cancel()
        may_answer.set()
        await until(lambda: asking.in_flight == 0)
        assert await asking.ask(ASKED) == Refusal(4, "no such agent")
    assert asking.counters.remembered == 1


@pytest.mark.parametrize("threads", [1, 3, 8])
async def test_at_most_the_configured_number_of_lookups_run_at_a_time(path: Path, threads: int) -> None:
    running = most = 0
    all_run = asyncio.Event()

    async def count(request: str) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == threads:
            all_run.set()
        await all_run.wait()
        await asyncio.sleep(0.02)  # so that an excess lookup would be noticed
        running -= 1
        return await by_id(request)

    async with answering(path, count):
        asking = KeyRequests(settings(socket=path, threads=threads))
        await asyncio.gather(*map(asking.ask, questions(24)))
    assert most == threads


async def test_an_address_with_many_questions_delays_another_address_by_one_question(path: Path) -> None:
    may_answer = asyncio.Event()

    async def wait(request: str) -> bytes:
        await may_answer.wait()
        return await by_id(request)

    async with answering(path, wait) as received:
        asking = KeyRequests(settings(socket=path, threads=1))
        loud = [asyncio.create_task(asking.ask(question, "192.0.2.1")) for question in questions(9)]
        await until(lambda: received)
        quiet = asyncio.create_task(asking.ask(Question("id", "999"), "192.0.2.2"))
        await until(lambda: asking.in_flight == 10)
        may_answer.set()
        await asyncio.gather(quiet, *loud)
    assert received.index("id:999") == 2


async def test_an_address_cannot_fill_the_queue(path: Path) -> None:
    async with answering(path, never):
        asking = KeyRequests(settings(socket=path, threads=1, queue_size=7))
        loud = [asyncio.create_task(asking.ask(question, "192.0.2.1")) for question in questions(2)]
        await until(lambda: asking.in_flight == 2)
        with pytest.raises(Unavailable, match="Too many key requests"):
            await asking.ask(Question("id", "998"), "192.0.2.1")
        quiet = asyncio.create_task(asking.ask(Question("id", "999"), "192.0.2.2"))
        await until(lambda: asking.in_flight == 3)
        await asking.close()
        outcomes = await asyncio.gather(quiet, *loud, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {Unavailable}
    assert asking.in_flight == 0


async def test_a_lookup_whose_turn_comes_at_its_deadline_releases_its_slot() -> None:
    slots, loop = Slots(1), asyncio.get_running_loop()

    async def hold() -> None:
        async with slots.slot("client", loop.time() + PATIENCE):
            pass

    async with slots.slot("client", loop.time() + PATIENCE):
        waiting = asyncio.create_task(hold())
        await asyncio.sleep(0)
    waiting.cancel()  # its turn has come, but it has not run yet
    await asyncio.gather(waiting, return_exceptions=True)
    assert waiting.cancelled()
    await hold()


async def test_programs_run_concurrently(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    meet = f"touch {marks}/$2; until [ $(ls {marks} | wc -l) = 4 ]; do sleep 0.02; done"
    program = script(tmp_path, meet, """printf '{"error":4,"message":"%s"}' "$2" """)
    async with asking_program(program, threads=4) as asking:
        answers = await asyncio.gather(*map(asking.ask, questions(4)))
    assert answers == [Refusal(4, question.value) for question in questions(4)]


async def test_a_full_queue_is_an_immediate_error(path: Path) -> None:
    async with answering(path, never):
        asking = KeyRequests(settings(socket=path, threads=1, queue_size=2))
        waiting = [asyncio.create_task(asking.ask(question)) for question in questions(3)]
        await until(lambda: asking.in_flight == len(waiting))
        with pytest.raises(Unavailable, match=r"^Too many key requests are waiting for an answer; try again later\.$"):
            await asking.ask(Question("id", "999"))
        joined = asyncio.create_task(asking.ask(questions(1)[0]))
        await asyncio.sleep(0)
        assert (asking.in_flight, asking.counters.overflowed, asking.counters.joined) == (3, 1, 1)
        await asking.close()
        await asyncio.gather(*waiting, joined, return_exceptions=True)
    assert asking.in_flight == 0


async def test_the_deadline_holds_in_the_queue_too(path: Path) -> None:
    async with answering(path, never):
        asking = KeyRequests(settings(socket=path, threads=1, timeout_seconds=0.5))
        started = time.monotonic()
        outcomes = await asyncio.gather(*map(asking.ask, questions(100)), return_exceptions=True)
    assert time.monotonic() - started < 100 * 0.5 / 2  # in sequence, they would take twice as long
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
    assert asking.counters.unavailable == 100


async def test_a_refusal_is_remembered_for_a_while(path: Path) -> None:
    async with answering(path, always(refusal_json())) as received:
        for seconds, lookups in ((PATIENCE, 1), (0.0, 2)):
            received.clear()
            asking = KeyRequests(settings(socket=path, refusal_seconds=seconds))
            assert await asking.ask(ASKED) == await asking.ask(ASKED) == Refusal(4, "no such agent")
            assert len(received) == asking.counters.refusals == lookups
            assert asking.counters.remembered == 2 - lookups


@pytest.mark.parametrize("is_there", [True, False])
async def test_the_program_is_run_only_when_the_socket_fails(tmp_path: Path, path: Path, *, is_there: bool) -> None:
    program = script(tmp_path, echo(agent_json(name="of-the-program")))
    served = answering(path if is_there else tmp_path / "elsewhere", by_id)
    async with asking_program(program, path) as asking, served:
        answer = await asking.ask(ASKED)
    assert isinstance(answer, ExternalAgent)
    assert answer.name == ("web-1" if is_there else "of-the-program")
    assert asking.counters.fallbacks == (not is_there)


async def test_a_hanging_socket_leaves_time_for_the_program(tmp_path: Path, path: Path) -> None:
    program = script(tmp_path, echo(agent_json()))
    async with answering(path, never):
        for seconds in (1.0, 10.0, PATIENCE):  # the program gets half, and may start late on a busy machine
            async with asking_program(program, path, timeout_seconds=seconds) as asking:
                with suppress(SourceUnavailable):
                    answer = await asking.ask(ASKED)
                    break
    assert isinstance(answer, ExternalAgent)


@pytest.mark.parametrize("answer", [refusal_json(), b"no json"])
async def test_a_refusal_and_a_bad_answer_of_the_socket_are_final(tmp_path: Path, path: Path, answer: bytes) -> None:
    mark = tmp_path / "was run"
    program = script(tmp_path, f"touch '{mark}'")
    async with asking_program(program, path) as asking, answering(path, always(answer)):
        await asyncio.gather(asking.ask(ASKED), return_exceptions=True)
    assert not mark.exists()


async def test_a_source_that_keeps_failing_is_paused(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    source = CircuitBreaker(SocketSource(path, 4096), clock)
    for _ in range(circuit_breaker.FAILURES_MAXIMUM):
        with pytest.raises(SourceUnavailable) as failed:
            await source.ask(ASKED, PATIENCE)
        assert not isinstance(failed.value, CircuitOpen)
    assert "5 failures in a row" in caplog.text
    async with answering(path, by_id) as received:
        with pytest.raises(CircuitOpen):
            await source.ask(ASKED, PATIENCE)
        clock.seconds = circuit_breaker.PAUSE_SECONDS
        assert isinstance(await source.ask(ASKED, PATIENCE), ExternalAgent)
        assert isinstance(await source.ask(ASKED, PATIENCE), ExternalAgent)
    assert len(received) == 2


async def test_one_question_probes_a_paused_source_while_others_are_refused(path: Path) -> None:
    clock = Clock()
    source = CircuitBreaker(SocketSource(path, 4096), clock)
    await asyncio.gather(*(source.ask(ASKED, PATIENCE) for _ in range(5)), return_exceptions=True)
    clock.seconds = circuit_breaker.PAUSE_SECONDS
    async with answering(path, never) as received:
        questions = [asyncio.create_task(source.ask(ASKED, PATIENCE)) for _ in range(5)]
        await until(lambda: received and sum(question.done() for question in questions) == 4)
        [trying] = [question for question in questions if not question.done()]
        trying.cancel()
        outcomes = await asyncio.gather(*questions, return_exceptions=True)
    assert len(received) == 1
    assert sum(isinstance(outcome, CircuitOpen) for outcome in outcomes) == 4


async def test_paths_are_logged_but_not_shown_to_the_client(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SourceUnavailable) as failed:
        await KeyRequests(settings(socket=path)).ask(ASKED)
    assert str(path) not in failed.value.detail
    assert f"key request id 001: {path}: No such file or directory" in caplog.text


async def test_without_sources_every_question_is_unavailable() -> None:
    with pytest.raises(CommsError):
        await KeyRequests(settings()).ask(ASKED)


async def test_closing_kills_the_programs(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    asking = KeyRequests(settings(script(tmp_path, f"echo $$ >'{pid}'; exec sleep 3600")))
    lookup = asyncio.create_task(asking.ask(ASKED))
    await until(lambda: pid.exists() and pid.read_text())
    await asking.close()
    with pytest.raises(Unavailable, match="This node is stopping"):
        await lookup
    await until(lambda: not psutil.pid_exists(int(pid.read_text())))
