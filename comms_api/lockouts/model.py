"""The number of failed logins without a lock, and the length of the locks after further failures."""

import msgspec

LONGEST_SECONDS = 900.0


class Allowance(msgspec.Struct, frozen=True):
    """The number of failures without a lock, and the length of the locks after further failures.

    A lock begins with `first_seconds` and doubles with each failure up to `longest_seconds`. The free failures are
    forgotten in `forgotten_seconds`.
    """

    kind: str
    """The name of the limit; each limit counts separately."""

    failures: int
    first_seconds: float
    longest_seconds: float = LONGEST_SECONDS
    forgotten_seconds: float = LONGEST_SECONDS
    success_clears: bool = True
    """Whether a success clears the failures, or only refunds its own charge."""

    message: str = "Too many failed logins; try again later."
