"""What a measurement is: the figures it gives, what each must reach, and how it is taken."""

import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias

import msgspec

from bench.system import System


class Figure(msgspec.Struct, frozen=True):
    """What a figure must reach and what it aims at; `is_most` says that less is better."""

    key: str
    must: float
    aim: float
    unit: str
    is_most: bool = False

    def holds(self, value: float) -> bool:
        """Return whether a value is as good as it must be."""
        return value <= self.must if self.is_most else value >= self.must

    def share(self, value: float) -> float:
        """Return how much of what it must reach a value is: from 1 on, it holds."""
        if value == self.must:
            return 1.0
        return self.must / max(value, 1e-9) if self.is_most else value / self.must


class Effort(msgspec.Struct, frozen=True):
    """How long to measure."""

    rounds: int = 5
    share: float = 1.0

    def of(self, count: int) -> int:
        """Return as much of a count as this effort allows."""
        return max(1, int(count * self.share))


FULL, QUICK = Effort(), Effort(rounds=2, share=0.2)


class Measured(msgspec.Struct, frozen=True):
    """The values of the figures, and what they were made of."""

    values: Mapping[str, float]
    raw: Mapping[str, object]


class Measurement(msgspec.Struct, frozen=True):
    """How some figures are taken, on a system of their own."""

    name: str
    figures: Sequence[Figure]
    take: Callable[[System, Effort], Awaitable[Measured]]


Rates: TypeAlias = dict[str, list[float]]
"""What each of the things compared reached, round by round."""


def medians(rates: Rates) -> dict[str, float]:
    """Return the middle of each."""
    return {name: statistics.median(values) for name, values in rates.items()}


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of the values do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
