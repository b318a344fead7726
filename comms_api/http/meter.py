"""Count the requests of one API, and measure the time until they are answered."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, TypeAlias

from comms_api.meters import Histogram

METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNMATCHED = "unmatched"
OTHER = "other"

Kind: TypeAlias = tuple[str, str, int | None]
"""A method, a route and a status; the status is None if the client left before its answer."""


class RequestMeter:
    """The requests of one API by method, route and status.

    A route is the template of its path, so the number of routes is bounded; a path that no route has is `unmatched`.
    """

    def __init__(self) -> None:
        self._seconds: dict[Kind, Histogram] = {}
        self.answer_bytes = 0

    def record(self, scope: Any, status: int | None, size: int, seconds: float) -> None:
        """Count a request that has ended, with the size of its answer's body."""
        kind = scope["method"], scope.get("path_template", UNMATCHED), status
        histogram = self._seconds.get(kind)
        if histogram is None:
            method, route, _ = kind
            histogram = self._seconds.setdefault((method if method in METHODS else OTHER, route, status), Histogram())
        histogram.observe(seconds)
        self.answer_bytes += size

    def counts(self) -> Mapping[Kind, int]:
        """Return the number of requests of each kind."""
        return {kind: sum(histogram.counts) for kind, histogram in self._seconds.items()}

    def durations(self) -> Mapping[tuple[str, str], Histogram]:
        """Return the durations of the requests of each method and route, in seconds."""
        durations: defaultdict[tuple[str, str], Histogram] = defaultdict(Histogram)
        for (method, route, _), histogram in self._seconds.items():
            durations[method, route].add(histogram)
        return durations
