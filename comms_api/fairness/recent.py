"""Remember values for some seconds, in bounded memory."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

VALUES_MAXIMUM = 10_000


class Recent(Generic[K, V]):
    """The values of some seconds: at most `VALUES_MAXIMUM`; the oldest is dropped first."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._values: OrderedDict[K, tuple[V, float]] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of values."""
        return len(self._values)

    def find(self, key: K) -> V | None:
        """Return the value of a key if it is recent."""
        value, until = self._values.get(key, (None, 0.0))
        if value is None or self._clock() < until:
            return value
        del self._values[key]
        return None

    def remember(self, key: K, value: V) -> None:
        """Keep a value for the configured time."""
        self._values[key] = (value, self._clock() + self._seconds)
        self._values.move_to_end(key)
        if len(self._values) > VALUES_MAXIMUM:
            self._values.popitem(last=False)

    def forget(self, key: K) -> None:
        """Drop the value of a key."""
        self._values.pop(key, None)
