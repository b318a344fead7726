"""A measurement: its figures with their limits, and the function that measures them."""

import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias

import msgspec

from bench.system import System


class Figure(msgspec.Struct, frozen=True):
    """A figure with its limit and its goal. With `is_most`, both are maximums."""

    key: str
    must: float
    aim: float
    unit: str
    is_most: bool = False

    def holds(self, value: float) -> bool:
        """Return whether a value is within the limit."""
        return value <= self.must if self.is_most else value >= self.must

    def share(self, value: float) -> float:
        """Return how good a value is relative to the limit, which holds if this is at least 1."""
        if value == self.must:
            return 1.0
        return self.must / max(value, 1e-9) if self.is_most else value / self.must


class Effort(msgspec.Struct, frozen=True):
    """The length of a measurement: the number of rounds, and the share of the usual amount."""

    rounds: int = 5
    share: float = 1.0

    def of(self, count: int) -> int:
        """Return the part of a count that this effort allows, at least 1."""
        return max(1, int(count * self.share))


FULL, QUICK = Effort(), Effort(rounds=2, share=0.2)


class Measured(msgspec.Struct, frozen=True):
    """The values of the figures, and the raw data that they were computed from."""

    values: Mapping[str, float]
    raw: Mapping[str, object]


class Measurement(msgspec.Struct, frozen=True):
    """A way to measure some figures on a fresh system."""

    name: str
    figures: Sequence[Figure]
    measure: Callable[[System, Effort], Awaitable[Measured]]


Rates: TypeAlias = dict[str, list[float]]
"""The rates of each variant, round by round."""


def medians(rates: Rates) -> dict[str, float]:
    """Return the median of each variant."""
    return {name: statistics.median(values) for name, values in rates.items()}


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of the values do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
