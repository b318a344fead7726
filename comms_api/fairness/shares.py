"""Bound how many requests wait at the same time: each client has a share, and the node has a limit."""

from collections import Counter
from collections.abc import Callable, Hashable

from comms_api.errors import TooManyRequests, Unavailable


class WaitingRequests:
    """The waiting requests of one kind; `work` names the kind, such as "watch commands"."""

    def __init__(self, work: str, share: int, maximum: int) -> None:
        self._work = work
        self._share = share
        self._maximum = maximum
        self._counts: Counter[Hashable] = Counter()

    def enter(self, client: Hashable) -> Callable[[], None]:
        """Count a request of a client, and return a function that stops counting it.

        Raises `TooManyRequests` when the client is at its limit, `Unavailable` when the node is.
        """
        if self._counts[client] >= self._share:
            raise TooManyRequests(f"{self._share} of your requests {self._work} on this node already; stop some first.")
        if self._counts.total() >= self._maximum:
            raise Unavailable(f"Too many requests {self._work} on this node; try again later.")
        self._counts[client] += 1
        return lambda: self._leave(client)

    def _leave(self, client: Hashable) -> None:
        self._counts[client] -= 1
        if not self._counts[client]:
            del self._counts[client]
