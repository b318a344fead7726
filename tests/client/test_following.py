"""The agent follows log files that are rotated, copied, truncated, compressed, in any encoding, and behind links."""

import gzip
import json
import logging
import os
import shutil
from collections.abc import Iterator
from glob import glob
from pathlib import Path

import pytest

from comms_api.client.log_files.follower import Follower
from comms_api.client.log_files.lines import LINE_BYTES_MAXIMUM
from comms_api.client.log_files.walk import Walk
from comms_api.client.spool.thread import SpoolThread


def take(spool: SpoolThread) -> list[str]:
    """Return the texts of the lines in a spool, and settle them."""
    lines = spool.wait(spool.file.lines.next_batch, 10_000)
    if lines:
        spool.wait(spool.file.lines.settle, lines, sent=True)
    return [json.loads(line.event)["event"]["original"] for line in lines]


class Log:
    """A log file, and the follower that reads it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "app.log"
        self.path.touch()
        self.spool = SpoolThread(folder / "spool.sqlite", 2**30)
        self.follower = Follower((str(folder / "*.log"),), self.spool, from_start=True)

    def write(self, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data)

    def collected(self) -> list[str]:
        list(self.follower.collect(self.follower.find_paths()))
        return take(self.spool)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    created = Log(tmp_path)
    yield created
    created.follower.close()
    created.spool.close()


def test_a_line_is_collected_when_it_is_complete(log: Log) -> None:
    log.write(b"one\ntw")
    assert log.collected() == ["one"]
    log.write(b"o\r\n\nthree\n")
    assert log.collected() == ["two", "three"]
    assert log.collected() == []


def test_a_rotation_loses_no_line_of_either_file(log: Log) -> None:
    log.write(b"before\n")
    assert log.collected() == ["before"]
    log.write(b"last of the old\n")
    log.path.rename(log.path.with_suffix(".1"))
    log.write(b"first of the new\n")
    assert log.collected() == ["last of the old", "first of the new"]


def test_a_truncated_file_is_read_from_its_start(log: Log) -> None:
    log.write(b"a long line that was here\n")
    log.collected()
    log.path.write_bytes(b"short\n")
    assert log.collected() == ["short"]


def test_invalid_bytes_are_escaped_and_endless_lines_are_cut(log: Log) -> None:
    log.write(b"caf\xe9 \x00\n" + b"x" * 3 * 2**20 + b"\nafter\n")
    first, long, last = log.collected()
    assert (first, last) == ("caf\\xe9 \x00", "after")
    assert long == "x" * LINE_BYTES_MAXIMUM + " … (line cut)"


def test_existing_files_are_read_from_their_end_by_default(tmp_path: Path) -> None:
    (tmp_path / "x.log").write_bytes(b"old\n")
    spool = SpoolThread(tmp_path / "spool.sqlite", 2**20)
    follower = Follower((str(tmp_path / "*.log"),), spool, from_start=False)
    list(follower.collect(follower.find_paths()))
    with (tmp_path / "x.log").open("ab") as file:
        file.write(b"new\n")
    list(follower.collect(follower.find_paths()))
    assert take(spool) == ["new"]
    follower.close()
    spool.close()


def restart(log: Log, pattern: str = "*.log") -> None:
    """Replace the follower by one that knows only the spool, as after a crash."""
    log.follower.close()
    log.follower = Follower((str(log.path.parent / pattern),), log.spool, from_start=True)


def test_a_file_that_was_rotated_while_the_agent_was_down_is_read_to_its_end(log: Log) -> None:
    log.write(b"sent before\n")
    assert log.collected() == ["sent before"]
    log.write(b"while down\n")
    log.path.rename(log.path.with_suffix(".1"))
    log.write(b"new file\n")
    restart(log)
    assert log.collected() == ["while down", "new file"]


def test_a_rotated_file_that_its_writer_still_has_open_is_read(log: Log) -> None:
    with log.path.open("ab", buffering=0) as writer:
        writer.write(b"one\n")
        log.collected()
        log.path.rename(log.path.with_suffix(".1"))
        log.path.touch()
        assert log.collected() == []
        writer.write(b"late\n")
    assert log.collected() == ["late"]


def test_a_pattern_that_also_matches_rotated_files_repeats_no_line(log: Log) -> None:
    restart(log, "app*")
    for number in range(4):
        log.write(b"line %d\n" % number)
        assert log.collected() == [f"line {number}"]
        log.path.rename(log.path.with_suffix(f".{number}"))
        log.path.touch()
        restart(log, "app*")
    assert log.collected() == []


def test_a_file_that_was_overwritten_by_a_longer_one_is_read_from_its_start(log: Log) -> None:
    log.write(b"short\n")
    log.collected()
    log.path.write_bytes(b"another and longer\nfile\n")
    assert log.collected() == ["another and longer", "file"]


def test_a_file_that_appears_later_is_read_from_its_start(log: Log) -> None:
    log.follower = Follower((str(log.path.parent / "*.log"),), log.spool, from_start=False)
    log.write(b"old\n")
    assert log.collected() == []
    (log.path.parent / os.fsdecode(b"caf\xe9.log")).write_bytes(b"new\n")
    assert log.collected() == ["new"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
def test_lines_of_any_unicode_encoding_are_decoded(log: Log, encoding: str) -> None:
    texts = ["first", "h\u00e4\u4e0a\u010a\u0a0d", "\U0001f600", "last"]  # some of them contain the byte of a newline
    data = "\r\n".join([*texts, ""]).encode(encoding)
    collected = []
    for start in range(0, len(data), 3):  # a write may end within a character
        log.write(data[start : start + 3])
        collected += log.collected()
    restart(log)
    log.write("after\n".encode(encoding.replace("utf-16", "utf-16-le") if encoding == "utf-16" else encoding))
    assert collected + [text.removeprefix("\ufeff") for text in log.collected()] == [*texts, "after"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_long_line_becomes_one_event_that_is_marked_as_cut(log: Log, encoding: str) -> None:
    text = "x" * 2 * LINE_BYTES_MAXIMUM
    data = f"{text}\nafter\n".encode(encoding)
    collected = []
    for start in range(0, len(data), 50_001):
        log.write(data[start : start + 50_001])
        collected += log.collected()
        restart(log)
    assert [event[-11:] for event in collected] == [" (line cut)", "after"]
    assert LINE_BYTES_MAXIMUM / 2 - 2 < len(collected[0]) < LINE_BYTES_MAXIMUM + 20


def lines(start: int, end: int) -> list[str]:
    return [f"line {number}" for number in range(start, end)]


class CopiedLog:
    """A log that is rotated by copying and truncating it."""

    def __init__(self, log: Log, *, is_restarted: bool) -> None:
        self.log = log
        self.is_restarted = is_restarted
        self.collected: list[str] = []
        self.written = 0
        restart(log, "**/*app*")

    def write(self, count: int) -> None:
        self.log.write("".join(f"{text}\n" for text in lines(self.written, self.written + count)).encode())
        self.written += count

    def collect(self) -> None:
        if self.is_restarted:
            restart(self.log, "**/*app*")
        self.collected += self.log.collected()

    def copy(self, name: str) -> None:
        shutil.copyfile(self.log.path, self.log.path.parent / name)

    def truncate(self) -> None:
        os.truncate(self.log.path, 0)


@pytest.fixture(params=[False, True], ids=["running", "restarted"])
def copied(log: Log, request: pytest.FixtureRequest) -> CopiedLog:
    return CopiedLog(log, is_restarted=request.param)


NAMES = ["app.log.1", "app.log-20261126", "app-2026-11-26.log", "older/app.log.1"]


@pytest.mark.parametrize("name", NAMES)
def test_lines_of_a_log_that_is_copied_and_truncated_are_collected_once(copied: CopiedLog, name: str) -> None:
    (copied.log.path.parent / "older").mkdir()
    for _ in range(3):
        copied.write(7)
        copied.collect()
        copied.write(3)
        copied.copy(name)
        copied.truncate()
        copied.collect()
    copied.write(5)
    copied.collect()
    copied.collect()
    assert copied.collected == lines(0, 35)


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_that_is_found_before_its_original_is_truncated_repeats_no_line(copied: CopiedLog, name: str) -> None:
    (copied.log.path.parent / "older").mkdir()
    copied.write(10)
    copied.copy(name)
    copied.collect()
    copied.write(2)
    copied.collect()
    copied.truncate()
    copied.write(3)
    copied.collect()
    copied.write(2)
    copied.collect()
    assert copied.collected == [*lines(0, 17)]


def test_an_unfinished_copy_repeats_no_line(log: Log) -> None:
    copied = CopiedLog(log, is_restarted=False)
    copied.write(10)
    copied.collect()
    content = log.path.read_bytes()
    copy = log.path.with_name("app.log.1")
    for length in range(0, len(content) - 10, 7):
        copy.write_bytes(content[:length])
        copied.collect()
    copied.truncate()
    copied.write(2)
    copied.collect()
    copied.collect()
    assert copied.collected == lines(0, 12)


def test_a_rotation_through_numbered_copies_repeats_no_line(copied: CopiedLog) -> None:
    for _ in range(4):
        copied.write(10)
        copied.collect()
        for number in (2, 1):
            if (older := copied.log.path.with_name(f"app.log.{number}")).exists():
                shutil.copyfile(older, older.with_name(f"app.log.{number + 1}"))
        copied.copy("app.log.1")
        copied.truncate()
        copied.collect()
    assert copied.collected == lines(0, 40)


def test_files_that_only_begin_alike_are_read_completely(log: Log) -> None:
    restart(log, "*.log")
    log.write(b"started\n")
    log.path.with_name("other.log").write_bytes(b"started\n")
    log.path.with_name("app-2.log").write_bytes(b"started\nin the second\n")
    assert sorted(log.collected()) == ["in the second", "started", "started", "started"]
    log.write(b"more\n")
    log.path.with_name("app-3.log").write_bytes(b"started\n")
    assert log.collected() == ["more"]
    with log.path.with_name("app-3.log").open("ab") as file:
        file.write(b"in the third\n")
    assert log.collected() == ["started", "in the third"]


def test_compressed_files_are_skipped_and_logged_once(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    restart(log, "app*")
    log.write(b"line\n")
    log.path.with_name("app.log.1.gz").write_bytes(gzip.compress(b"line\n"))
    log.path.with_name("app.log.2").write_bytes(gzip.compress(b"line\n"))
    log.path.with_name("app.log.3.zst").write_bytes(b"")
    with caplog.at_level(logging.INFO):
        assert log.collected() == ["line"]
        assert log.collected() == []
    warnings = [record.getMessage().partition(": ") for record in caplog.records]
    folder = log.path.parent
    assert {(path, reason) for path, _, reason in warnings} == {
        (f"cannot follow {folder / name}", "it is compressed")
        for name in ("app.log.1.gz", "app.log.2", "app.log.3.zst")
    }
    assert len(warnings) == 3


def found(pattern: str) -> list[str]:
    return sorted(Walk(lambda path, reason: pytest.fail(f"{path}: {reason}")).find(pattern))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Log files in folders, some of them hidden, and links to folders and files, some of them circular."""
    for name in ("logs/a.log", "logs/deep/er/b.log", "logs/deep/[x].log", "logs/.hidden/c.log", "logs/c.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for link, target in (("a", "."), ("b", "."), ("deep/up", ".."), ("self.log", "self.log"), ("gone.log", "nowhere")):
        (tmp_path / "logs" / link).symlink_to(target)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "d.log").touch()
    (tmp_path / "logs" / "other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "logs" / "link.log").symlink_to("c.txt")
    return tmp_path


def test_a_search_through_circular_links_ends_and_finds_each_file_once(tree: Path) -> None:
    names = ["a.log", "deep/[x].log", "deep/er/b.log", "link.log", "other/d.log"]
    assert found(f"{tree}/logs/**/*.log") == [f"{tree}/logs/{name}" for name in names]
    assert found(f"{tree}/**/deep/**/b.log") == [f"{tree}/logs/deep/er/b.log"]


PATTERNS = [
    "*",
    "logs/*.log",
    "logs/*",
    "logs/?.log",
    "logs/deep/[[]x].log",
    "logs/.hidden/*",
    "logs/.h*/*.log",
    "logs/a.log",
    "logs/../elsewhere/*",
    "*/*/er/b.log",
    "logs/[!b].log",
    "nothing/*/x",
    "elsewhere/**",
    "elsewhere/**/d.log",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_match_like_those_of_glob(tree: Path, pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    for prefix in ("", f"{tree}/"):
        expected = [path for path in glob(prefix + pattern, recursive=True) if Path(path).is_file()]  # noqa: PTH207
        assert found(prefix + pattern) == sorted(expected)


def test_the_documented_pattern_finds_the_logs_of_this_host() -> None:
    pattern = "/var/log/**/*.log"
    expected = {Path(path).resolve() for path in glob(pattern, recursive=True) if Path(path).is_file()}  # noqa: PTH207
    assert {Path(path).resolve() for path in Walk(lambda *_: None).find(pattern)} == expected


def test_a_search_stops_at_its_limits_with_a_warning(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}.log").touch()
    warnings: list[str] = []
    walk = Walk(lambda path, reason: warnings.append(f"{path}: {reason}"), entries=10)
    assert len(list(walk.find(f"{tmp_path}/*.log"))) < 10
    assert list(walk.find(f"{tmp_path}/*.txt")) == []
    assert warnings[-1] == f"{tmp_path}/*.txt: its limit of 10 entries and 30 seconds is reached"
    assert list(Walk(lambda *_: None, seconds=0).find(f"{tmp_path}/*.log")) == []


def test_files_of_all_patterns_are_followed_despite_circular_links(tree: Path) -> None:
    spool = SpoolThread(tree / "spool.sqlite", 2**20)
    follower = Follower((f"{tree}/logs/**/*.log", f"{tree}/elsewhere/*.log"), spool, from_start=True)
    (tree / "logs" / "a.log").write_text("a\n")
    (tree / "elsewhere" / "d.log").write_text("d\n")
    list(follower.collect(follower.find_paths()))
    follower.close()
    assert sorted(take(spool)) == ["a", "d"]
    spool.close()
