"""The interface of sources of agents."""

from typing import Protocol

from comms_api.errors import Unavailable
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
