"""The interface of sources of agents, and the TLS context of those on a network."""

import ssl
from pathlib import Path
from typing import Protocol

from comms_api.errors import ConfigurationError, Unavailable
from comms_api.key_requests.model import ExternalAgent, Question, Refusal


class SourceUnavailable(Unavailable):
    """The external source of agents cannot be asked now; try again later."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason
        """For the operator's log, not for the client."""


class Source(Protocol):
    """A source that answers questions about agents."""

    async def ask(self, question: Question, seconds: float) -> ExternalAgent | Refusal:
        """Return the answer; raises `BadAnswer`, or `SourceUnavailable` if none comes within `seconds`."""


def tls_context(authorities: Path | None) -> ssl.SSLContext:
    """Return a context that trusts these authorities, or the system's; raises `ConfigurationError`."""
    try:
        return ssl.create_default_context(cafile=authorities)
    except OSError as error:  # an `ssl.SSLError` is one
        raise ConfigurationError(f"ca: {authorities}: {error.strerror or error}") from None
