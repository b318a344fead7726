"""Ids that sort by their creation time."""

import time
from datetime import UTC, datetime

from comms_api.database.uuid7 import DatabaseClock, uuid7_at, uuid7_floor, uuid7_time


def test_an_id_contains_its_creation_time_in_milliseconds() -> None:
    moment = datetime(2026, 11, 21, 4, 22, 33, 123_000, tzinfo=UTC)
    assert uuid7_time(uuid7_floor(moment)) == moment
    made = uuid7_at(moment.timestamp())
    assert (made.version, made.variant, uuid7_time(made)) == (7, "specified in RFC 4122", moment)


def test_ids_of_one_millisecond_sort_by_creation() -> None:
    moments = [1_780_000_000 + microsecond / 1e6 for microsecond in range(0, 1000, 10)]
    made = [uuid7_at(moment) for moment in moments]
    assert made == sorted(made)
    assert len({uuid7_time(id_) for id_ in made}) == 1


def test_ids_ascend_even_when_the_clock_is_corrected_by_some_milliseconds() -> None:
    clock = DatabaseClock()
    made = []
    for seconds in (0.0, -0.02, 0.01, -3):
        clock.set(time.time() + seconds)
        made += [clock.uuid7() for _ in range(1000)]
    assert made == sorted(set(made))


def test_a_clock_that_was_ahead_leaves_no_ids_of_the_future() -> None:
    clock = DatabaseClock()
    clock.set(time.time() + 3600)
    clock.uuid7()
    clock.set(time.time())
    assert abs(uuid7_time(clock.uuid7()).timestamp() - time.time()) < 1


def test_the_nodes_clock_only_determines_its_skew() -> None:
    clock = DatabaseClock()
    clock.set(time.time() - 5)
    assert abs(clock.skew_seconds - 5) < 0.5
    assert abs(uuid7_time(clock.uuid7()).timestamp() - (time.time() - 5)) < 0.5
