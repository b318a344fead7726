"""The interval of a ratio contains the ratio, and is as wide as the values are uncertain."""

import random

import pytest

from bench.resampling import Blocks, ratio_interval


def blocks(seed: int, count: int, scale: float = 1.0) -> Blocks:
    chance = random.Random(seed)  # noqa: S311 - made up
    return [[scale * chance.uniform(1, 2) for _ in range(60)] for _ in range(count)]


def test_equal_values_have_a_narrow_interval_around_one() -> None:
    low, high = ratio_interval(blocks(1, 30), blocks(2, 30), 0.99)
    assert 0.95 < low <= 1.0 <= high < 1.05


def test_the_interval_contains_the_ratio() -> None:
    low, high = ratio_interval(blocks(1, 30, scale=3), blocks(2, 30), 0.99)
    assert low < 3 < high


def test_a_stall_in_one_block_widens_the_interval_and_one_in_many_does_not() -> None:
    calm = blocks(1, 30)
    low, high = ratio_interval([*calm, [10.0] * 60], calm, 0.99)
    assert low < 1.1
    assert high == pytest.approx(5, rel=0.1)
    low, high = ratio_interval([*calm, *[[10.0] * 60] * 30], calm, 0.99)
    assert low == pytest.approx(high, rel=0.1)


def test_the_same_values_have_the_same_interval() -> None:
    assert ratio_interval(blocks(1, 5), blocks(2, 5), 0.5) == ratio_interval(blocks(1, 5), blocks(2, 5), 0.5)
