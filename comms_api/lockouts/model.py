"""How many failed logins are free, and how long further ones lock."""

import msgspec

LONGEST_SECONDS = 900.0


class Allowance(msgspec.Struct, frozen=True):
    """How many failures are free, and how long further ones lock.

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
