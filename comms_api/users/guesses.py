"""Limit the guesses at users' passwords: from one address, from everywhere, and from known devices."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from comms_api.database.connection import Engine
from comms_api.lockouts.model import Allowance
from comms_api.lockouts.service import FailureLimit
from comms_api.users.model import LoginRecord, Origin

FAILURES_ALLOWED = 5
LOCK_SECONDS = 1.0
STRANGERS_FAILURES_ALLOWED = 50
STRANGERS_INTERVAL_SECONDS = 30.0

_AT_ADDRESS = Allowance("user at address", FAILURES_ALLOWED, LOCK_SECONDS)
_OF_DEVICE = Allowance("device", FAILURES_ALLOWED, LOCK_SECONDS)
_OF_STRANGERS = Allowance(
    "strangers at user",
    STRANGERS_FAILURES_ALLOWED,
    STRANGERS_INTERVAL_SECONDS,
    longest_seconds=STRANGERS_INTERVAL_SECONDS,
    forgotten_seconds=STRANGERS_FAILURES_ALLOWED * STRANGERS_INTERVAL_SECONDS,
    success_clears=False,  # the owner's login must not reset the strangers' limit
    message="Too many failed logins of this user; log in from a device or an address that has logged in before.",
)


class GuessLimits:
    """Charges a guess to its device, its address or all strangers.

    A device that has logged in before has its own limit, so no other client can use it up. All other clients share one
    limit per user and address. Guesses from networks where the user has not logged in before also share one limit per
    user: after 50 failures, the server evaluates one guess every 30 seconds, from however many addresses they come.
    """

    def __init__(self, engine: Engine) -> None:
        self._at_address = FailureLimit(engine, _AT_ADDRESS)
        self._of_device = FailureLimit(engine, _OF_DEVICE)
        self._of_strangers = FailureLimit(engine, _OF_STRANGERS)

    @asynccontextmanager
    async def charged(self, name: str, origin: Origin, record: LoginRecord | None) -> AsyncIterator[None]:
        """Charge a guess at a user's password before the block evaluates it, as `FailureLimit.charged` does."""
        async with AsyncExitStack() as stack:
            if record is not None and record.has_device:
                await stack.enter_async_context(self._of_device.charged(str(origin.device_token)))
            else:
                await stack.enter_async_context(self._at_address.charged(name, origin.address))
                if record is None or not record.is_known_network:
                    await stack.enter_async_context(self._of_strangers.charged(name))
            yield
