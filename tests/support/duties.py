"""Perform the duties of services that a test builds."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from comms_api.database.failures import explain_outage
from comms_api.duties.health import DutyHealth
from comms_api.duties.repeating import Duty, repeating


class Service(Protocol):
    """A service with duties."""

    def duties(self) -> list[Duty]: ...


@asynccontextmanager
async def performing(*services: Service) -> AsyncIterator[None]:
    """Perform the duties of services during the block."""
    duties = [duty for service in services for duty in service.duties()]
    async with repeating(duties, DutyHealth(explain_outage)):
        yield
