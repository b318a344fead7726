"""Send the deliveries of webhooks. Each webhook has its own task, so a slow receiver delays no other."""

import asyncio
import logging
import random
from collections.abc import Sequence
from functools import partial
from uuid import UUID

from comms_api.database.connection import Engine
from comms_api.database.housekeeping import HOUSEKEEPING_SECONDS
from comms_api.database.uuid7 import DatabaseClock
from comms_api.duties.repeating import Duty
from comms_api.errors import ConfigurationError
from comms_api.settings import Settings
from comms_api.text.limited_log import LimitedLog
from comms_api.tokens.secret import Secret
from comms_api.webhooks import store
from comms_api.webhooks.model import ATTEMPT_SECONDS, RETRY_SECONDS_MAXIMUM, Delivery, DeliveryFailed
from comms_api.webhooks.receiver import Receivers
from comms_api.webhooks.signing import signed_headers

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
LEASE_SECONDS = 6 * ATTEMPT_SECONDS
"""If a process dies, another one sends its delivery after this time, which is much longer than an attempt."""

ERROR_LENGTH_MAXIMUM = 300


class Sender:
    """Sends the deliveries that are due; any number of processes may do so."""

    def __init__(
        self, engine: Engine, secret: Secret, clock: DatabaseClock, receivers: Receivers, settings: Settings
    ) -> None:
        self._engine = engine
        self._secret = secret
        self._clock = clock
        self._receivers = receivers
        self._attempts_maximum = settings.webhook_attempts_maximum
        self._retry_seconds = settings.webhook_retry_seconds
        self._sending: dict[UUID, asyncio.Task[None]] = {}
        self._failures = LimitedLog(logger, logging.WARNING)

    def duties(self) -> Sequence[Duty]:
        """Return the duties that start tasks for due deliveries, and that keep secrets and dead letters in order."""
        upkeep = Duty("webhooks upkeep", self.keep_up, HOUSEKEEPING_SECONDS)
        upkeep.wake.set()
        return [Duty("webhooks", self.look, LOOK_SECONDS, finish=self.stop), upkeep]

    async def look(self) -> None:
        """Start a task for each webhook that has due deliveries and none yet."""
        async with self._engine.connect() as connection:
            due = await store.find_due(connection)
        for webhook_id in due:
            if webhook_id not in self._sending:
                task = asyncio.create_task(self._send_all(webhook_id))
                self._sending[webhook_id] = task
                task.add_done_callback(partial(self._forget, webhook_id))

    def _forget(self, webhook_id: UUID, _task: asyncio.Task[None]) -> None:
        del self._sending[webhook_id]

    async def stop(self) -> None:
        """Cancel the tasks; another process sends their deliveries after the lease."""
        tasks = list(self._sending.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def keep_up(self) -> None:
        """Delete excess dead letters, and encrypt secrets with the current node secret."""
        async with self._engine.connect() as connection:
            await store.trim_dead_letters(connection)  # even if a secret cannot be decrypted
        async with self._engine.begin() as connection:
            for webhook_id, sealed in await store.list_secrets(connection):
                again = self._secret.encrypt(self._secret.decrypt(sealed))
                await store.replace_secret(connection, webhook_id, sealed, again)

    async def _send_all(self, webhook_id: UUID) -> None:
        """Send one delivery after the other, until none is due or one fails."""
        try:
            while True:
                async with self._engine.connect() as connection:
                    delivery = await store.claim(connection, webhook_id, LEASE_SECONDS)
                if delivery is None or not await self._send(webhook_id, delivery):
                    return
        except Exception as error:  # noqa: BLE001 - the next pass starts a new task
            self._failures.write(f"webhook {webhook_id}: {type(error).__name__}: {error}")

    async def _send(self, webhook_id: UUID, delivery: Delivery) -> bool:
        """Send a delivery and record the outcome; return whether the receiver accepted it."""
        try:
            await self.post(delivery)
        except DeliveryFailed as error:
            await self._fail(webhook_id, delivery, error)
            return False
        async with self._engine.connect() as connection:
            await store.settle(connection, delivery)
        return True

    async def post(self, delivery: Delivery) -> None:
        """Sign and post a delivery once; raises `DeliveryFailed`."""
        try:
            secret = self._secret.decrypt(delivery.sealed_secret).decode()
        except ConfigurationError as error:
            raise DeliveryFailed(str(error)) from None
        headers = signed_headers(secret, delivery.id, int(self._clock.now()), delivery.content)
        await self._receivers.post(delivery.url, delivery.content, headers)

    async def _fail(self, webhook_id: UUID, delivery: Delivery, error: DeliveryFailed) -> None:
        reason, is_dead = str(error)[:ERROR_LENGTH_MAXIMUM], delivery.attempts >= self._attempts_maximum
        self._failures.write(
            f"webhook {webhook_id}: delivery {delivery.id}, attempt {delivery.attempts}: {reason}"
            f"{'; it is a dead letter now' if is_dead else ''}"
        )
        retry_seconds = None if is_dead else max(self._pause(delivery.attempts), error.pause_seconds or 0.0)
        async with self._engine.connect() as connection:
            await store.fail(connection, delivery, reason, retry_seconds, error.pause_seconds)

    def _pause(self, attempts: int) -> float:
        longest = min(RETRY_SECONDS_MAXIMUM, self._retry_seconds * 2.0 ** min(attempts - 1, 32))
        return random.uniform(0.5, 1.0) * longest  # noqa: S311 - spreading, no secret
