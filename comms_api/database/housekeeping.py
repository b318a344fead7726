"""The duties of the database, and a helper for services whose duty is one periodic statement."""

from collections.abc import Awaitable, Callable
from functools import partial

from comms_api.database.connection import Connection, Engine
from comms_api.database.partitions import create_partitions
from comms_api.database.uuid7 import DatabaseClock
from comms_api.duties.repeating import Duty

CLOCK_SECONDS = 60.0
HOUSEKEEPING_SECONDS = 600.0
"""The interval at which expired rows are deleted and partitions are created and dropped."""


def transaction_duty(
    name: str, engine: Engine, every_seconds: float, run: Callable[[Connection], Awaitable[object]]
) -> Duty:
    """Return a duty that runs a store's function in a transaction."""

    async def perform() -> None:
        async with engine.begin() as connection:
            await run(connection)

    return Duty(name, perform, every_seconds)


def database_duties(engine: Engine, clock: DatabaseClock) -> list[Duty]:
    """Return the duties that synchronise the clock and create partitions ahead of time."""
    return [
        transaction_duty("clock", engine, CLOCK_SECONDS, clock.synchronise),
        Duty("partitions", partial(create_partitions, engine), HOUSEKEEPING_SECONDS),
    ]
