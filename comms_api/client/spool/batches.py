"""The limits of a batch."""

from collections.abc import Sequence

BATCH_BYTES_MAXIMUM = 2**20
BATCH_ITEMS_MAXIMUM = 2_000
HEADER_BYTES = 200
"""The approximate size of a change without its document."""


def within_bytes(sizes: Sequence[int], maximum: int) -> int:
    """Return how many of the first items fit into `maximum` bytes: at least one, if there is one."""
    total = 0
    for count, size in enumerate(sizes):
        total += size
        if total > maximum:
            return max(count, 1)
    return len(sizes)
