"""Decide how many held orders of a command to release: by stages, by a rate, by a number in flight, or none.

Pure functions: `Rollouts` counts and releases the orders.
"""

import math
from typing import Annotated

import msgspec
from msgspec import Meta

FAILURES_AFTER = 10


class Rollout(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The limits that an operator sets; each is optional, and all of them apply.

    A stage is `percent` of the orders; the next begins when every order of the last has ended. `per_minute` limits the
    rate, `max_in_flight` the orders that are released and have not ended. Once `failures_after` orders have ended, or
    none is in flight, a share of failures above `failure_ratio` stops the rollout.
    """

    percent: Annotated[float, Meta(gt=0, le=100)] | None = None
    per_minute: Annotated[float, Meta(gt=0, le=10_000_000)] | None = None
    max_in_flight: Annotated[int, Meta(ge=1)] | None = None
    failure_ratio: Annotated[float, Meta(ge=0, lt=1)] | None = None
    failures_after: Annotated[int, Meta(ge=1)] = FAILURES_AFTER


class RolloutProgress(msgspec.Struct, frozen=True):
    """The progress of a rollout: of `total` orders, `held` are not released, and `in_flight` have not ended since.

    `unsent` orders, the held ones among them, were never offered. `ended` and `failed` count since the last
    resumption. `credit` is the number of orders that the rate allows now.
    """

    total: int
    held: int
    in_flight: int
    ended: int
    failed: int
    unsent: int
    credit: float


def excess_failures(rollout: Rollout, progress: RolloutProgress) -> str | None:
    """Return why a rollout must stop, or None."""
    if rollout.failure_ratio is None or progress.ended == 0:
        return None
    is_enough = progress.ended >= rollout.failures_after or progress.in_flight == 0
    if not is_enough or progress.failed <= rollout.failure_ratio * progress.ended:
        return None
    return f"{progress.failed} of {progress.ended} orders failed, more than the ratio {rollout.failure_ratio:g} allows"


def releasable(rollout: Rollout, progress: RolloutProgress) -> int:
    """Return how many orders all limits together allow to release now."""
    limits = [progress.held]
    if rollout.percent is not None:
        limits.append(_remaining_of_stage(rollout.percent, progress))
    if rollout.per_minute is not None:
        limits.append(math.floor(progress.credit))
    if rollout.max_in_flight is not None:
        limits.append(rollout.max_in_flight - progress.in_flight)
    return max(0, min(limits))


def is_complete(rollout: Rollout, progress: RolloutProgress, released: int) -> bool:
    """Return whether no order remains to be released, or to be held if too many fail."""
    return released >= progress.held and (rollout.failure_ratio is None or progress.unsent == 0)


def _remaining_of_stage(percent: float, progress: RolloutProgress) -> int:
    stage = max(1, math.ceil(progress.total * percent / 100))
    begun = (progress.total - progress.held) % stage
    if begun == 0:
        return stage if progress.in_flight == 0 else 0
    return stage - begun


def credit_after(rollout: Rollout, credit: float, seconds: float) -> float:
    """Return the credit of a rate after some time, at most that of one minute."""
    if rollout.per_minute is None:
        return credit
    return min(max(rollout.per_minute, 1.0), credit + rollout.per_minute * seconds / 60)
