"""Estimate how much a ratio of percentiles depends on chance: the bootstrap of blocks.

Latencies of neighbouring exchanges depend on each other, because a stall delays all of them. So whole blocks are drawn,
with replacement, and the ratio is computed from each draw.
"""

import random
from collections.abc import Sequence
from itertools import chain
from typing import TypeAlias

from bench.figures import percentile

DRAWS = 1_000
CONFIDENCE = 0.95

Blocks: TypeAlias = Sequence[Sequence[float]]


def ratio_interval(numerator: Blocks, denominator: Blocks, share: float) -> tuple[float, float]:
    """Return the interval of 95 % of the ratio of two percentiles, such as the p99 with a `share` of 0.99."""
    chance = random.Random(0)  # noqa: S311 - the same values give the same interval
    ratios = [_draw(chance, numerator, share) / _draw(chance, denominator, share) for _ in range(DRAWS)]
    return percentile(ratios, (1 - CONFIDENCE) / 2), percentile(ratios, (1 + CONFIDENCE) / 2)


def _draw(chance: random.Random, blocks: Blocks, share: float) -> float:
    return percentile(list(chain.from_iterable(chance.choices(blocks, k=len(blocks)))), share)
