"""Run a computation in steps to its end."""

from typing import TypeVar

from comms_api.fairness.slices import Steps

T = TypeVar("T")


def exhaust(steps: Steps[T]) -> T:
    """Return the result of a computation at once."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
