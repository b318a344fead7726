"""Count logins by their outcome, for the metrics."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from comms_api.errors import Forbidden, Invalid, TooManyRequests, Unauthenticated, Unavailable

SUCCESS = "success"
FAILED = "failed"

_REFUSALS: Mapping[type[Exception], str] = {
    Unauthenticated: "unauthenticated",
    Forbidden: "forbidden",
    Invalid: "invalid",
    TooManyRequests: "too_many_failures",
    Unavailable: "unavailable",
}
"""The outcomes of refused logins. Other errors, such as outages, are `failed`."""


class LoginOutcomes(Counter[str]):
    """The number of logins of this process by their outcome."""

    def __init__(self) -> None:
        super().__init__(dict.fromkeys((SUCCESS, FAILED, *_REFUSALS.values()), 0))

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the login in the block by the error that it raises, or as a success."""
        try:
            yield
        except Exception as error:
            self[next((name for kind, name in _REFUSALS.items() if isinstance(error, kind)), FAILED)] += 1
            raise
        self[SUCCESS] += 1
