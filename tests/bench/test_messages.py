"""The events that the bench sends are as long and as compressible as those of real agents."""

import statistics

import msgspec

from bench.messages import compression, event_lines

LINES = [line for seed in range(50) for line in event_lines(100, seed)]


def test_events_have_400_bytes_on_average() -> None:
    assert 380 < statistics.mean(map(len, LINES)) < 420


def test_zstd_compresses_a_batch_three_to_six_times() -> None:
    assert 3 < compression() < 6


def test_every_event_is_an_object_that_is_no_sub_header() -> None:
    for line in LINES:
        assert "module" not in msgspec.json.decode(line, type=dict)


def test_a_seed_determines_the_events_and_another_seed_changes_all_of_them() -> None:
    assert event_lines(100, 7) == event_lines(100, 7)
    assert not set(event_lines(100, 7)) & set(event_lines(100, 8))
