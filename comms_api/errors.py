"""Every error this project raises on purpose, in one tree; nothing here knows HTTP.

A class docstring is the sentence a client reads when the raiser has nothing more exact to say::

    CommsError
    ├── ConfigurationError      the operator's settings, files or environment are wrong
    ├── Malformed               the bytes cannot be read as what they should be
    │   ├── UnsupportedEncoding the body's encoding is not one we decode
    │   └── ClientLeft          nobody waits for the answer
    ├── Invalid                 well formed, but a field's value is not allowed
    ├── Unauthenticated         who are you
    ├── Forbidden               not yours
    ├── NotFound                no such thing
    ├── Conflict                it exists already, or its state forbids this
    │   └── Outdated            something newer has been applied
    ├── TooLarge                over a stated limit
    ├── TooSlow                 the body did not arrive in time
    ├── TooManyRequests         slow down; says when to come back
    └── Unavailable             we are full, or something we depend on is down; says when to come back
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


class Unauthenticated(CommsError):
    """Credentials are missing, wrong or expired."""

    code = 2706


class Forbidden(CommsError):
    """This is not yours."""

    code = 2712


class NotFound(CommsError):
    """There is no such thing."""

    code = 2713


class Conflict(CommsError):
    """It exists already."""

    code = 2714


class Outdated(Conflict):
    """A newer batch of this agent has been applied."""

    code = 2720

    def __init__(self, latest: int) -> None:
        super().__init__(f"The batch is older than the batch {latest}, which has been applied; nothing was changed.")
        self.latest = latest


class TooLarge(CommsError):
    """The request is too large."""

    code = 2715


class TooSlow(CommsError):
    """The request body did not arrive in time."""

    code = 2716


class TooManyRequests(CommsError):
    """Too many requests; come back later."""

    code = 2717


class Unavailable(CommsError):
    """The service cannot take this now; come back later."""

    code = 2718
