"""The spool keeps everything that was stored, whatever ends the agent."""

import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from comms_api.client.spool.model import Change, FilePosition, Line
from comms_api.client.spool.spool import Spool
from comms_api.protocol import Result


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    opened = Spool(tmp_path / "spool.sqlite", 10_000)
    yield opened
    opened.close()


def line(text: str) -> Line:
    return Line(0, "logcollector", "file", text.encode())


def at(offset: int) -> FilePosition:
    return FilePosition("/", 1, "log", offset)


WRITER = """
import sys
from pathlib import Path
from comms_api.client.spool.model import Line, FilePosition
from comms_api.client.spool.spool import Spool

spool = Spool(Path(sys.argv[1]), 10**9)
offset = 0
while True:
    offset += 3
    lines = [Line(0, "m", "c", b"%d" % number) for number in range(offset - 3, offset)]
    spool.lines.add(FilePosition("/", 1, "log", offset), lines)
    print(offset, flush=True)
"""


def test_a_killed_agent_has_stored_every_line_that_it_read_once_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "spool.sqlite"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    last_printed = [writer.stdout.readline() for _ in range(20)][-1]
    time.sleep(0.05)
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    spool = Spool(path, 10**9)
    position = spool.positions.find("/", 1)
    lines = spool.lines.next_batch(10**6)
    spool.close()
    assert position is not None
    assert position.offset >= int(last_printed)
    assert [kept.event for kept in lines] == [b"%d" % number for number in range(position.offset)]


def test_beyond_the_limit_the_oldest_lines_are_dropped_and_counted(spool: Spool) -> None:
    for number in range(30):
        spool.lines.add(at(number), [line(f"{number:0500}")])
    kept = [int(item.event) for item in spool.lines.next_batch(100)]
    assert kept == list(range(10, 30))
    statistics = spool.statistics()
    assert (statistics.events_collected, statistics.events_dropped) == (30, 10)


def test_lines_in_flight_are_not_dropped_so_that_each_line_is_counted_once(spool: Spool) -> None:
    spool.lines.add(at(1), [line(f"{0:0500}"), line(f"{1:0500}")])
    batch = spool.lines.next_batch(2)
    for number in range(2, 32):
        spool.lines.add(at(number), [line(f"{number:0500}")])
    spool.lines.settle(batch, sent=True)
    assert [int(item.event) for item in spool.lines.next_batch(100)] == list(range(12, 32))
    statistics = spool.statistics()
    assert (statistics.events_collected, statistics.events_sent, statistics.events_dropped) == (32, 2, 10)


def test_a_full_disk_loses_no_stored_line_and_the_spool_recovers(spool: Spool) -> None:
    spool.lines.add(at(1), [line("kept")])
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, usual[1]))
    try:
        with pytest.raises(sqlite3.OperationalError, match=r"full|disk I/O error"):
            spool.lines.add(at(2), [line("x" * 5_000) for _ in range(200)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert (spool.lines.waiting_bytes, spool.statistics().events_collected) == (4, 1)
    spool.lines.add(at(2), [line("after")])
    assert [kept.event for kept in spool.lines.next_batch(10)] == [b"kept", b"after"]


def test_a_batch_ends_at_its_limit_of_bytes_and_later_lines_wait(spool: Spool) -> None:
    spool.lines.add(at(1), [line("x" * 100) for _ in range(10)])
    assert len(spool.lines.next_batch(100, 350)) == 3
    assert spool.lines.waiting_bytes == 700
    assert not spool.lines.has_full_batch()


def test_sent_lines_leave_the_spool_and_are_counted_once(spool: Spool) -> None:
    spool.lines.add(at(3), [line("a"), line("b"), line("c")])
    batch = spool.lines.next_batch(2)
    spool.lines.settle(batch, sent=True)
    spool.lines.settle(batch, sent=True)
    assert [item.event for item in spool.lines.next_batch(10)] == [b"c"]
    assert spool.statistics().events_sent == 2


def test_a_change_is_stored_together_with_the_known_states(spool: Spool) -> None:
    change = Change("inventory", "packages", "a", "create", b"{}")
    spool.changes.add([(change, b"hash")])
    assert spool.changes.known("inventory", "packages") == {"a": b"hash"}
    [kept] = spool.changes.next_batch(10)
    assert (kept.id, kept.operation, kept.data) == ("a", "create", b"{}")
    spool.changes.settle([kept], 0, [])
    spool.changes.add([(Change("inventory", "packages", "a", "delete", None), b"")])
    assert spool.changes.known("inventory", "packages") == {}
    assert spool.statistics().states_sent == 1


def test_an_order_is_accepted_once_and_its_result_kept_until_it_is_acknowledged(spool: Spool) -> None:
    assert spool.orders.accept("o1")
    assert not spool.orders.accept("o1")
    assert spool.orders.unreported(10) == []
    spool.orders.finish("o1", Result(0, "done"))
    assert [(report.order_id, report.result.message) for report in spool.orders.unreported(10)] == [("o1", "done")]
    spool.orders.settle({"o1": "updated"})
    assert spool.orders.unreported(10) == []
    spool.orders.report_again("o1")
    assert len(spool.orders.unreported(10)) == 1
    statistics = spool.statistics()
    assert (statistics.orders_received, statistics.orders_executed, statistics.orders_duplicate) == (2, 1, 1)


def test_an_order_that_was_interrupted_is_reported_as_unknown(spool: Spool) -> None:
    spool.orders.accept("interrupted")
    spool.orders.accept("finished")
    spool.orders.finish("finished", Result(0))
    spool.orders.finish_interrupted(Result(4, "restarted"))
    assert {report.order_id: report.result.code for report in spool.orders.unreported(10)} == {
        "interrupted": 4,
        "finished": 0,
    }


def test_only_the_owner_can_read_the_spool(spool: Spool, tmp_path: Path) -> None:
    assert spool.statistics().logins == 0
    assert (tmp_path / "spool.sqlite").stat().st_mode & 0o077 == 0
