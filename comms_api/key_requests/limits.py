"""Limit failed key requests, of each address and in all, on all nodes together.

A failure is a refusal of the source, or an agent whose key is not the one that the client sent. Requests that succeed
are not limited, so thousands of agents behind one address can be enrolled. A failure is charged after it happened, so
an address may exceed its rate by the requests that run at the same time.
"""

from contextlib import suppress

from comms_api.database.connection import Engine
from comms_api.errors import TooManyRequests
from comms_api.key_requests.model import KeySettings
from comms_api.lockouts.model import Allowance
from comms_api.lockouts.service import FailureLimit

MINUTE_SECONDS = 60.0
BURST_SECONDS = 4.0
"""An address may fail as often at once as its rate allows in this time."""

LOCK_SECONDS = 1.0
WHO = "key requests"


class KeyRequestLimits:
    """The limits of failed key requests of one address, and of all addresses together."""

    def __init__(self, engine: Engine, settings: KeySettings) -> None:
        of_address = "Too many key requests of your address have failed; try again later."
        of_all = "Too many key requests have failed; try again later."
        self._of_address = FailureLimit(engine, _rate(settings.address_failures_per_minute, of_address))
        self._of_all = FailureLimit(engine, _rate(settings.failures_per_minute, of_all))

    def check_remembered(self, address: str) -> None:
        """Raise `TooManyRequests` if this node remembers that the address, or all addresses together, are locked."""
        self._of_address.check_remembered(WHO, address)
        self._of_all.check_remembered(WHO)

    async def check(self, address: str) -> None:
        """Raise `TooManyRequests` while the address, or all addresses together, are locked."""
        await self._of_address.check(WHO, address)
        await self._of_all.check(WHO)

    async def charge(self, address: str) -> None:
        """Count a failure."""
        with suppress(TooManyRequests):  # other requests have reached the limit
            await self._of_address.charge(WHO, address)
            await self._of_all.charge(WHO)


def _rate(failures_per_minute: float, message: str) -> Allowance:
    """Return an allowance whose lock does not grow: a rate, with a burst."""
    per_second = failures_per_minute / MINUTE_SECONDS
    burst = max(1, round(per_second * BURST_SECONDS))
    return Allowance(
        "key request",
        burst,
        first_seconds=max(LOCK_SECONDS, 1 / per_second),
        longest_seconds=max(LOCK_SECONDS, 1 / per_second),
        forgotten_seconds=burst / per_second,
        message=message,
    )
