"""Every error this project raises on purpose, in one tree; nothing here knows HTTP.

A class docstring is the sentence a client reads when the raiser has nothing more exact to say::

    CommsError
    ├── ConfigurationError      the operator's settings, files or environment are wrong
    ├── Malformed               the bytes cannot be parsed
    │   ├── UnsupportedEncoding the body's encoding is not one we decode
    │   └── ClientLeft          the client disconnected before the answer
    ├── Invalid                 well formed, but a field's value is not allowed
    ├── Unauthenticated         the caller is not identified
    ├── Forbidden               the caller may not do this
    ├── NotFound                the object does not exist
    ├── Conflict                the object already exists, or its state forbids the request
    │   └── Outdated            something newer has been applied
    ├── TooLarge                over a stated limit
    ├── TooSlow                 the body did not arrive in time
    ├── TooManyRequests         the client must slow down; the error says when to try again
    └── Unavailable             the node is full or a dependency is down; the error says when to try again
"""

from typing import ClassVar


class CommsError(Exception):
    """Something went wrong."""

    code: ClassVar[int] = 1000
    """A number for programs: stable, never reused."""

    def __init__(
        self, detail: str | None = None, *, code: int | None = None, retry_after_seconds: float | None = None
    ) -> None:
        self.retry_after_seconds = retry_after_seconds
        self.detail = detail or (type(self).__doc__ or "").strip()
        self.error_code = code or self.code
        super().__init__(self.detail)


class ConfigurationError(CommsError):
    """A setting is wrong."""


class Malformed(CommsError):
    """The request body is malformed."""

    code = 2709


class UnsupportedEncoding(Malformed):
    """The Content-Encoding is not supported: send identity, gzip or zstd."""

    code = 2710


class ClientLeft(Malformed):
    """The client disconnected; its request was dropped."""


class Invalid(CommsError):
    """A field has a value that is not allowed."""

    code = 2711

    def __init__(self, *faults: str, code: int | None = None) -> None:
        super().__init__("; ".join(faults), code=code)
        self.faults = faults


class Unauthenticated(CommsError):
    """Credentials are missing, wrong or expired."""

    code = 2706


class Forbidden(CommsError):
    """You may not do this."""

    code = 2712


class NotFound(CommsError):
    """It does not exist."""

    code = 2713


class Conflict(CommsError):
    """It already exists."""

    code = 2714


class Outdated(Conflict):
    """A newer batch of this agent has been applied."""

    code = 2720

    def __init__(self, latest: int) -> None:
        super().__init__(
            f"The batch is older than batch {latest}, which has already been applied; nothing was changed."
        )
        self.latest = latest


class TooLarge(CommsError):
    """The request is too large."""

    code = 2715


class TooSlow(CommsError):
    """The request body did not arrive in time."""

    code = 2716


class TooManyRequests(CommsError):
    """Too many requests; try again later."""

    code = 2717


class Unavailable(CommsError):
    """The service cannot accept this request now; try again later."""

    code = 2718
