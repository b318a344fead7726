"""Log files that are followed: rotated, copied, truncated, compressed, in any encoding, below folders in circles."""

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
from comms_api.client.spool.spool import Spool


class Log:
    """A log file that is followed."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "app.log"
        self.path.touch()
        self.spool = Spool(folder / "spool.sqlite", 2**30)
        self.follower = Follower((str(folder / "*.log"),), self.spool, from_start=True)

    def write(self, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data)

    def collected(self) -> list[str]:
        list(self.follower.collect(self.follower.find_paths()))
        lines = self.spool.lines.next_batch(10_000)
        if lines:
            self.spool.lines.settle(lines, sent=True)
        return [json.loads(line.event)["event"]["original"] for line in lines]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    made = Log(tmp_path)
    yield made
    made.follower.close()
    made.spool.close()


def test_a_line_is_sent_when_it_is_whole(log: Log) -> None:
    log.write(b"one\ntw")
    assert log.collected() == ["one"]
    log.write(b"o\r\n\nthree\n")
    assert log.collected() == ["two", "three"]
    assert log.collected() == []


def test_rotation_loses_nothing_of_either_file(log: Log) -> None:
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


def test_bytes_that_are_no_text_and_lines_without_end_are_kept_within_bounds(log: Log) -> None:
    log.write(b"caf\xe9 \x00\n" + b"x" * 3 * 2**20 + b"\nafter\n")
    first, long, last = log.collected()
    assert (first, last) == ("caf\\xe9 \x00", "after")
    assert long == "x" * LINE_BYTES_MAXIMUM + " … (line cut)"


def test_a_new_file_may_be_read_from_its_end(tmp_path: Path) -> None:
    (tmp_path / "x.log").write_bytes(b"old\n")
    spool = Spool(tmp_path / "spool.sqlite", 2**20)
    follower = Follower((str(tmp_path / "*.log"),), spool, from_start=False)
    list(follower.collect(follower.find_paths()))
    with (tmp_path / "x.log").open("ab") as file:
        file.write(b"new\n")
    list(follower.collect(follower.find_paths()))
    lines = [json.loads(line.event)["event"]["original"] for line in spool.lines.next_batch(10)]
    follower.close()
    spool.close()
    assert lines == ["new"]


def reread(log: Log, pattern: str = "*.log") -> None:
    """Follow as after a crash: with the spool alone."""
    log.follower.close()
    log.follower = Follower((str(log.path.parent / pattern),), log.spool, from_start=True)


def test_the_rest_of_a_file_that_was_rotated_while_the_agent_was_away_is_read(log: Log) -> None:
    log.write(b"sent before\n")
    assert log.collected() == ["sent before"]
    log.write(b"while away\n")
    log.path.rename(log.path.with_suffix(".1"))
    log.write(b"new file\n")
    reread(log)
    assert log.collected() == ["while away", "new file"]


def test_a_writer_that_does_not_know_of_the_rotation_yet_is_still_read(log: Log) -> None:
    with log.path.open("ab", buffering=0) as writer:
        writer.write(b"one\n")
        log.collected()
        log.path.rename(log.path.with_suffix(".1"))
        log.path.touch()
        assert log.collected() == []
        writer.write(b"late\n")
    assert log.collected() == ["late"]


def test_a_pattern_that_also_matches_rotated_files_repeats_nothing(log: Log) -> None:
    reread(log, "app*")
    for number in range(4):
        log.write(b"line %d\n" % number)
        assert log.collected() == [f"line {number}"]
        log.path.rename(log.path.with_suffix(f".{number}"))
        log.path.touch()
        reread(log, "app*")
    assert log.collected() == []


def test_a_file_that_was_replaced_in_place_by_a_longer_one_is_read_from_its_start(log: Log) -> None:
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
    texts = ["first", "h\u00e4\u4e0a\u010a\u0a0d", "\U0001f600", "last"]  # the codes of some have the byte of a newline
    data = "\r\n".join([*texts, ""]).encode(encoding)
    collected = []
    for at in range(0, len(data), 3):  # a write may end within a character
        log.write(data[at : at + 3])
        collected += log.collected()
    reread(log)
    log.write("after\n".encode(encoding.replace("utf-16", "utf-16-le") if encoding == "utf-16" else encoding))
    assert collected + [text.removeprefix("\ufeff") for text in log.collected()] == [*texts, "after"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_long_line_is_one_event_that_is_marked_as_cut(log: Log, encoding: str) -> None:
    text = "x" * 2 * LINE_BYTES_MAXIMUM
    data = f"{text}\nafter\n".encode(encoding)
    collected = []
    for at in range(0, len(data), 50_001):
        log.write(data[at : at + 50_001])
        collected += log.collected()
        reread(log)
    assert [event[-11:] for event in collected] == [" (line cut)", "after"]
    assert LINE_BYTES_MAXIMUM / 2 - 2 < len(collected[0]) < LINE_BYTES_MAXIMUM + 20


def lines(start: int, end: int) -> list[str]:
    return [f"line {number}" for number in range(start, end)]


class Copied:
    """A log that is rotated by copying and truncating it, ten lines at a time."""

    def __init__(self, log: Log, *, is_restarted: bool) -> None:
        self.log = log
        self.is_restarted = is_restarted
        self.collected: list[str] = []
        self.written = 0
        reread(log, "**/*app*")

    def write(self, count: int) -> None:
        self.log.write("".join(f"{text}\n" for text in lines(self.written, self.written + count)).encode())
        self.written += count

    def collect(self) -> None:
        if self.is_restarted:
            reread(self.log, "**/*app*")
        self.collected += self.log.collected()

    def copy(self, name: str) -> None:
        shutil.copyfile(self.log.path, self.log.path.parent / name)

    def truncate(self) -> None:
        os.truncate(self.log.path, 0)


@pytest.fixture(params=[False, True], ids=["running", "restarted"])
def copied(log: Log, request: pytest.FixtureRequest) -> Copied:
    return Copied(log, is_restarted=request.param)


NAMES = ["app.log.1", "app.log-20261126", "app-2026-11-26.log", "older/app.log.1"]


@pytest.mark.parametrize("name", NAMES)
def test_lines_of_a_log_that_is_copied_and_truncated_are_sent_once(copied: Copied, name: str) -> None:
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
def test_a_copy_that_is_seen_before_its_original_is_truncated_repeats_nothing(copied: Copied, name: str) -> None:
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


def test_a_copy_that_is_being_made_repeats_nothing(log: Log) -> None:
    copied = Copied(log, is_restarted=False)
    copied.write(10)
    copied.collect()
    whole = log.path.read_bytes()
    copy = log.path.with_name("app.log.1")
    for length in range(0, len(whole) - 10, 7):
        copy.write_bytes(whole[:length])
        copied.collect()
    copied.truncate()
    copied.write(2)
    copied.collect()
    copied.collect()
    assert copied.collected == lines(0, 12)


def test_rotation_through_numbered_copies_repeats_nothing(copied: Copied) -> None:
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


def test_files_that_merely_begin_alike_are_read_whole(log: Log) -> None:
    reread(log, "*.log")
    log.write(b"started\n")
    log.path.with_name("other.log").write_bytes(b"started\n")
    log.path.with_name("app-2.log").write_bytes(b"started\nof another\n")
    assert sorted(log.collected()) == ["of another", "started", "started", "started"]
    log.write(b"more\n")
    log.path.with_name("app-3.log").write_bytes(b"started\n")
    assert log.collected() == ["more"]
    with log.path.with_name("app-3.log").open("ab") as file:
        file.write(b"of a third\n")
    assert log.collected() == ["started", "of a third"]


def test_compressed_files_are_skipped_and_named_once(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    reread(log, "app*")
    log.write(b"line\n")
    log.path.with_name("app.log.1.gz").write_bytes(gzip.compress(b"line\n"))
    log.path.with_name("app.log.2").write_bytes(gzip.compress(b"line\n"))
    log.path.with_name("app.log.3.zst").write_bytes(b"")
    with caplog.at_level(logging.INFO):
        assert log.collected() == ["line"]
        assert log.collected() == []
    named = [record.getMessage().partition(": ") for record in caplog.records]
    folder = log.path.parent
    assert {(path, reason) for path, _, reason in named} == {
        (f"cannot follow {folder / name}", "it is compressed")
        for name in ("app.log.1.gz", "app.log.2", "app.log.3.zst")
    }
    assert len(named) == 3


def found(pattern: str) -> list[str]:
    return sorted(Walk(lambda path, reason: pytest.fail(f"{path}: {reason}")).find(pattern))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Log files in folders, some hidden, and links to folders and files, in circles as well."""
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


def test_links_in_circles_end_no_search_and_each_file_is_found_once(tree: Path) -> None:
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
def test_patterns_find_what_those_of_glob_do(tree: Path, pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    for prefix in ("", f"{tree}/"):
        expected = [path for path in glob(prefix + pattern, recursive=True) if Path(path).is_file()]  # noqa: PTH207
        assert found(prefix + pattern) == sorted(expected)


def test_the_documented_pattern_finds_the_logs_of_this_host() -> None:
    pattern = "/var/log/**/*.log"
    expected = {Path(path).resolve() for path in glob(pattern, recursive=True) if Path(path).is_file()}  # noqa: PTH207
    assert {Path(path).resolve() for path in Walk(lambda *_: None).find(pattern)} == expected


def test_a_search_ends_at_its_bounds_and_says_so(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}.log").touch()
    complaints: list[str] = []
    walk = Walk(lambda path, reason: complaints.append(f"{path}: {reason}"), entries=10)
    assert len(list(walk.find(f"{tmp_path}/*.log"))) < 10
    assert list(walk.find(f"{tmp_path}/*.txt")) == []
    assert complaints[-1] == f"{tmp_path}/*.txt: its limit of 10 entries and 30 seconds is reached"
    assert list(Walk(lambda *_: None, seconds=0).find(f"{tmp_path}/*.log")) == []


def test_files_of_all_patterns_are_followed_though_links_lead_in_circles(tree: Path) -> None:
    spool = Spool(tree / "spool.sqlite", 2**20)
    follower = Follower((f"{tree}/logs/**/*.log", f"{tree}/elsewhere/*.log"), spool, from_start=True)
    (tree / "logs" / "a.log").write_text("a\n")
    (tree / "elsewhere" / "d.log").write_text("d\n")
    list(follower.collect(follower.find_paths()))
    follower.close()
    assert sorted(json.loads(line.event)["event"]["original"] for line in spool.lines.next_batch(10)) == ["a", "d"]
    spool.close()
