"""How fast a command's orders go out: in stages, at a rate, so many at a time, and no further when too many fail.

This module decides and touches nothing: `advance` says from the counts how many held orders to release now.
"""

import math
from typing import Annotated

import msgspec
from msgspec import Meta

FAILURES_AFTER = 10


class Rollout(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The bounds an operator sets; each is optional, and all that are given hold.

    `percent` of the orders are one stage, and the next begins when every order of the last has ended. `per_minute`
    bounds the rate, `max_in_flight` the orders that are released and have not ended. Once `failures_after` orders have
    ended, or nothing is in flight, a share of failures above `failure_ratio` stops the rollout.
    """

    percent: Annotated[float, Meta(gt=0, le=100)] | None = None
    per_minute: Annotated[float, Meta(gt=0, le=10_000_000)] | None = None
    max_in_flight: Annotated[int, Meta(ge=1)] | None = None
    failure_ratio: Annotated[float, Meta(ge=0, lt=1)] | None = None
    failures_after: Annotated[int, Meta(ge=1)] = FAILURES_AFTER


class Standing(msgspec.Struct, frozen=True):
    """Where a rollout stands: of `total` orders, `held` are not released and `in_flight` are, but have not ended.

    Those that no agent was offered yet are `unsent`, the held ones among them.

    `ended` and `failed` count since the last resumption; `credit` is how many orders the rate allows now.
    """

    total: int
    held: int
    in_flight: int
    ended: int
    failed: int
    unsent: int
    credit: float


def excess_failures(rollout: Rollout, standing: Standing) -> str | None:
    """Return why a rollout must stop, or None."""
    if rollout.failure_ratio is None or standing.ended == 0:
        return None
    is_enough = standing.ended >= rollout.failures_after or standing.in_flight == 0
    if not is_enough or standing.failed <= rollout.failure_ratio * standing.ended:
        return None
    return f"{standing.failed} of {standing.ended} orders failed, more than the ratio {rollout.failure_ratio:g} allows"


def releasable(rollout: Rollout, standing: Standing) -> int:
    """Return how many orders every bound lets go now."""
    bounds = [standing.held]
    if rollout.percent is not None:
        bounds.append(_rest_of_stage(rollout.percent, standing))
    if rollout.per_minute is not None:
        bounds.append(math.floor(standing.credit))
    if rollout.max_in_flight is not None:
        bounds.append(rollout.max_in_flight - standing.in_flight)
    return max(0, min(bounds))


def is_over(rollout: Rollout, standing: Standing, released: int) -> bool:
    """Return whether there is nothing left to release, nor to hold back should too many fail."""
    return released >= standing.held and (rollout.failure_ratio is None or standing.unsent == 0)


def _rest_of_stage(percent: float, standing: Standing) -> int:
    stage = max(1, math.ceil(standing.total * percent / 100))
    begun = (standing.total - standing.held) % stage
    if begun == 0:
        return stage if standing.in_flight == 0 else 0
    return stage - begun


def credit_after(rollout: Rollout, credit: float, seconds: float) -> float:
    """Return the credit of a rate after some time: never more than a minute's worth."""
    if rollout.per_minute is None:
        return credit
    return min(max(rollout.per_minute, 1.0), credit + rollout.per_minute * seconds / 60)
