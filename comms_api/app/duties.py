"""The periodic duties of a node: each is idempotent, so every node does them all and none is a leader."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

import msgspec

from comms_api.cluster.diary import Diary
from comms_api.database.failures import log_failure

logger = logging.getLogger(__name__)


class Duty(msgspec.Struct, frozen=True):
    """Something to do now and then."""

    name: str
    interval_seconds: float
    perform: Callable[[], Awaitable[object]]


async def keep_doing(duty: Duty, diary: Diary) -> None:
    """Perform a duty until cancelled, at intervals spread by a fifth so that nodes do not march in step.

    An outage is waited out; a bug is logged, and the duty goes on.
    """
    diary.begin(duty.name, duty.interval_seconds)
    while True:
        await asyncio.sleep(duty.interval_seconds * random.uniform(0.9, 1.1))  # noqa: S311 - spreading, no secret
        try:
            await duty.perform()
            diary.succeeded(duty.name)
        except Exception as error:  # noqa: BLE001 - it must go on
            log_failure(logger, f"duty {duty.name} not done", error)
