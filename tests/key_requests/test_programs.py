"""Programs of key requests run within limits, and none of their processes survives."""

import asyncio
import logging
import os
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.sources import ASKED, KEY, agent_json, echo, plain_file, refusal_json, script, settings
from support.speed import slowness
from support.waiting import PATIENCE, until, wait_until

from comms_api.key_requests.answers import BadAnswer
from comms_api.key_requests.model import ExternalAgent, Question, Refusal
from comms_api.key_requests.sources import launch
from comms_api.key_requests.sources.programs import ProgramSource
from comms_api.key_requests.sources.source import SourceUnavailable

pytestmark = pytest.mark.anyio

SHORT_SECONDS = 0.3
NEVER_SECONDS = 3600
CPU_SECONDS_MAXIMUM = 0.01
"""For the start of one program, on the thread of the event loop; a fork of a large process takes longer."""


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


async def run(
    program: tuple[str, ...], seconds: float = PATIENCE, question: Question = ASKED, **changes: Any
) -> ExternalAgent | Refusal:
    with closing(ProgramSource(settings(program, **changes))) as source:
        async with asyncio.timeout(2 * PATIENCE):
            return await source.ask(question, seconds)


async def reason_of(program: tuple[str, ...], seconds: float = PATIENCE, **changes: Any) -> str:
    with pytest.raises(SourceUnavailable) as failed:
        await run(program, seconds, **changes)
    return failed.value.reason


async def run_beyond_the_deadline(program: tuple[str, ...], started: Path) -> str:
    """Return why a program was stopped after it wrote a file; a busy machine may start it late."""
    for seconds in (SHORT_SECONDS, 10 * SHORT_SECONDS, PATIENCE):
        reason = await reason_of(program, seconds)
        if started.exists():  # noqa: ASYNC240 - a short call
            break
    return reason


def is_running(pid: Path) -> bool:
    """Return whether any process whose id is in a file is alive."""
    return any(_is_alive(int(number)) for number in pid.read_text().split())


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_the_output_of_the_program_is_the_answer(tmp_path: Path) -> None:
    assert await run(script(tmp_path, echo(agent_json()))) == ExternalAgent("001", "web-1", "any", KEY)
    assert await run(script(tmp_path, echo(refusal_json()))) == Refusal(4, "no such agent")


@pytest.mark.parametrize(("kind", "value"), [("id", "001"), ("ip", "192.168.1.100"), ("ip", "2001:db8::1")])
async def test_the_kind_and_the_value_follow_the_programs_arguments(tmp_path: Path, kind: Any, value: str) -> None:
    program = script(tmp_path, """printf '{"error":7,"message":"%s|%s|%s|%s"}' "$#" "$1" "$2" "$3" """)
    answer = await run((*program, "a b;$(id)"), question=Question(kind, value))
    assert answer == Refusal(7, f"3|a b;$(id)|{kind}|{value}")


async def test_an_interpreter_runs_a_script(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text(echo(agent_json()))
    assert isinstance(await run(("sh", str(tmp_path / "x.txt"))), ExternalAgent)


async def test_the_program_gets_no_input_and_no_environment_of_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMMS_API_SECRET", "of the server")
    names = """read line || input=none; names=$(env | cut -d= -f1 | grep -v '^_$' | sort | tr '\\n' ' ')"""
    answer = await run(script(tmp_path, names, """printf '{"error":7,"message":"%s %s%s"}' $input "$names" "$PWD" """))
    assert answer == Refusal(7, "none LANG PATH PWD /")


async def test_its_memory_processor_time_and_core_are_limited(tmp_path: Path) -> None:
    program = script(
        tmp_path, """printf '{"error":7,"message":"%s"}' "$(ulimit -v) $(ulimit -t) $(ulimit -c) $(umask)" """
    )
    answer = await run(program, program_memory_bytes=64 * 2**20, program_cpu_seconds=3)
    assert answer == Refusal(7, "65536 3 0 0077")


async def test_it_has_a_lower_priority_than_the_server(tmp_path: Path) -> None:
    answer = await run(script(tmp_path, """printf '{"error":7,"message":"%s"}' "$(nice)" """))
    assert answer == Refusal(7, str(min(os.nice(0) + launch.NICENESS, 19)))


@pytest.mark.skipif(not launch.AUTOGROUP.exists() or os.geteuid() != 0, reason="only root may always change autogroups")
async def test_all_programs_share_one_autogroup_of_a_lower_priority(tmp_path: Path) -> None:
    program = script(tmp_path, """printf '{"error":7,"message":"%s"}' "$(cat /proc/self/autogroup)" """)
    with closing(ProgramSource(settings(program))) as source:
        first, second = [await source.ask(ASKED, PATIENCE) for _ in range(2)]
    assert first == second
    assert isinstance(first, Refusal)
    assert first.message.endswith(f" nice {launch.NICENESS}")


async def test_memory_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    greedy = script(tmp_path, "head -c 200000000 /dev/zero | tail -c 190000000 >&2 || exit 9", echo(agent_json()))
    assert "code 9" in await reason_of(greedy, program_memory_bytes=32 * 2**20)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
async def test_the_program_runs_as_the_configured_user(scratch: Path) -> None:
    program = script(scratch, """printf '{"error":7,"message":"%s"}' "$(id -un) $(id -Gn) $(ulimit -p)" """)
    answer = await run(program, program_user="nobody")
    assert answer == Refusal(7, "nobody nogroup 1024")


@pytest.mark.parametrize(
    "answer",
    [
        agent_json() + agent_json(),
        agent_json(id="002"),
        agent_json(key="k" * 129),
        agent_json(key=7),
        b"not json",
        b"[]",
        b"",
    ],
)
async def test_a_hostile_answer_is_a_bad_answer(tmp_path: Path, answer: bytes) -> None:
    with pytest.raises(BadAnswer):
        await run(script(tmp_path, echo(answer)))


async def test_an_answer_that_never_ends_is_cut_off_at_once(tmp_path: Path) -> None:
    with pytest.raises(BadAnswer) as refused:
        await run(script(tmp_path, "yes"))
    assert refused.value.reason == "it is larger than 16384 bytes"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["exit 3"], "exited with code 3"),
        ([echo(agent_json()), "exit 3"], "exited with code 3"),
        (["kill -9 $$"], "was killed by signal 9"),
    ],
)
async def test_the_reason_of_a_failure_names_the_exit_code(tmp_path: Path, lines: list[str], reason: str) -> None:
    assert (await reason_of(script(tmp_path, *lines))).endswith(reason)


async def test_a_missing_and_an_unexecutable_program_have_different_reasons(tmp_path: Path) -> None:
    assert await reason_of((str(tmp_path / "missing"),)) == f"{tmp_path}/missing does not exist"
    for path in (plain_file(tmp_path), plain_file(tmp_path, b"\1\2\3", 0o755), str(tmp_path)):
        assert await reason_of((path,)) == f"{path} is not executable"


async def test_a_slow_program_is_stopped_at_the_deadline(tmp_path: Path) -> None:
    reason = await reason_of(script(tmp_path, f"exec sleep {NEVER_SECONDS}"), SHORT_SECONDS)
    assert "did not exit within 0.3 s" in reason


async def test_a_program_may_clean_up_when_it_is_terminated(tmp_path: Path) -> None:
    started, mark = tmp_path / "started", tmp_path / "tidied"
    tidy = script(tmp_path, f"trap 'touch {mark}; exit' TERM", f"touch {started}; sleep {NEVER_SECONDS} & wait")
    await run_beyond_the_deadline(tidy, started)
    assert mark.exists()


async def test_a_program_that_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    sleep = f"sleep {NEVER_SECONDS}"
    stubborn = script(tmp_path, "trap '' TERM", f"({sleep}; {sleep}) & echo $! $$ >{pids}", f"wait; {sleep}")
    await run_beyond_the_deadline(stubborn, pids)
    await until(lambda: not is_running(pids))


async def test_leftover_children_delay_nothing_and_are_killed(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    answer = await run(script(tmp_path, f"sleep {NEVER_SECONDS} & echo $! >{pid}", echo(agent_json())))
    assert isinstance(answer, ExternalAgent)
    await until(lambda: not is_running(pid))


async def test_a_child_that_leaves_the_group_delays_nothing(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    leave = f"setsid sh -c 'echo $$ >{pid}; exec sleep {NEVER_SECONDS}' &"
    answer = await run(script(tmp_path, leave, f"until [ -s {pid} ]; do sleep 0.01; done", echo(agent_json())))
    psutil.Process(int(pid.read_text())).kill()
    assert isinstance(answer, ExternalAgent)


async def test_a_cancelled_lookup_leaves_no_program(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    lookup = asyncio.create_task(run(script(tmp_path, f"echo $$ >{pid}", f"sleep {NEVER_SECONDS}")))
    await until(lambda: pid.exists() and pid.read_text())
    lookup.cancel()
    with pytest.raises(asyncio.CancelledError):
        await lookup
    await until(lambda: not is_running(pid))


async def test_a_lookup_cancelled_while_its_program_starts_leaves_no_process(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    lookup = asyncio.create_task(run(script(tmp_path, f"sleep {NEVER_SECONDS} & echo $! $$ >{pids}; wait")))
    for _ in range(20):  # then its pipes are open
        await asyncio.sleep(0)
    wait_until(lambda: pids.exists() and pids.read_text())  # the loop is blocked here, so the start is not complete
    lookup.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(lookup, PATIENCE)
    await until(lambda: not is_running(pids))


async def test_standard_error_is_logged_without_the_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    await run(script(tmp_path, f"echo 'row 001 {KEY} found\nslowly' >&2", echo(agent_json())))
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warned == [f"{tmp_path}/program-0.sh wrote to standard error: row 001 *** found slowly"]


@pytest.mark.parametrize(
    "lines",
    [
        [f"echo 'bad row {KEY}' >&2", echo(agent_json(id="002"))],
        [f"echo 'Key = {KEY}' >&2", "exit 1"],
        [f"echo 'duplicate row 001 {KEY}' >&2", "exit 1"],
        [f"""echo "{{'id': '001', 'key': '{KEY}'}}" >&2""", "exit 1"],
    ],
)
async def test_standard_error_of_a_failed_program_is_logged_without_the_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, lines: list[str]
) -> None:
    with pytest.raises((BadAnswer, SourceUnavailable)):
        await run(script(tmp_path, *lines))
    assert "***" in caplog.text


async def test_long_standard_error_is_truncated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loud = script(tmp_path, "head -c 1000000 /dev/zero | tr '\\0' x >&2", echo(agent_json()))
    assert isinstance(await run(loud), ExternalAgent)
    complaints = [record.getMessage() for record in caplog.records if "wrote to standard error" in record.getMessage()]
    assert len(complaints) == 1
    assert 1000 < len(complaints[0]) < 4500


async def test_a_program_with_endless_standard_error_is_killed(tmp_path: Path) -> None:
    assert "was killed by signal 9" in await reason_of(script(tmp_path, "yes >&2"))


async def test_programs_can_be_started_again_after_the_launcher_has_died(tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    name_launcher = f"ps -o ppid= -p $(ps -o ppid= -p $$) >{parent}"
    with closing(ProgramSource(settings(script(tmp_path, name_launcher, echo(agent_json()))))) as source:
        assert isinstance(await source.ask(ASKED, PATIENCE), ExternalAgent)
        launcher = psutil.Process(int(parent.read_text()))
        assert launch.__file__ in launcher.cmdline()
        launcher.kill()
        await until(lambda: launcher.status() == psutil.STATUS_ZOMBIE)
        assert isinstance(await source.ask(ASKED, PATIENCE), ExternalAgent)
    assert not launcher.is_running()


async def test_a_program_that_still_runs_does_not_hide_the_death_of_the_launcher(tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    wait_once = f"[ -e {parent} ] || {{ ps -o ppid= -p $(ps -o ppid= -p $$) >{parent}; exec sleep {NEVER_SECONDS}; }}"
    with closing(ProgramSource(settings(script(tmp_path, wait_once, echo(agent_json()))))) as source:
        first = asyncio.create_task(source.ask(ASKED, PATIENCE))
        await until(lambda: parent.exists() and parent.read_text())
        launcher = psutil.Process(int(parent.read_text()))
        launcher.kill()
        await until(lambda: launcher.status() == psutil.STATUS_ZOMBIE)
        assert isinstance(await source.ask(ASKED, PATIENCE), ExternalAgent)
        first.cancel()
        await asyncio.wait([first])


async def test_many_starts_of_programs_do_not_block_the_event_loop(tmp_path: Path) -> None:
    questions = [Question("id", f"{number:03}") for number in range(8)]
    with closing(ProgramSource(settings(script(tmp_path, """printf '{"error":7,"message":"%s"}' "$2" """)))) as source:
        await source.ask(ASKED, PATIENCE)  # starts the launcher
        before = time.thread_time()
        answers = await asyncio.gather(*(source.ask(question, PATIENCE) for question in questions))
        cpu_seconds = time.thread_time() - before
    assert answers == [Refusal(7, question.value) for question in questions]
    assert cpu_seconds / len(questions) < CPU_SECONDS_MAXIMUM * slowness()
