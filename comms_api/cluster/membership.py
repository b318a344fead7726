"""This process as one of the cluster: its heartbeat, and what it does about what operators want of it."""

import asyncio
import logging
import math
import time
from contextlib import suppress
from importlib.metadata import version

from comms_api.cluster import store
from comms_api.cluster.model import (
    HEARTBEAT_SECONDS,
    Directive,
    Heartbeat,
    NodeProcess,
    Polls,
    WantedState,
)
from comms_api.database.connection import Engine
from comms_api.database.failures import log_failure
from comms_api.database.liveness import LOST_AFTER_SECONDS
from comms_api.database.uuid7 import DatabaseClock
from comms_api.duties.health import DutyHealth
from comms_api.tokens.keyring import Keyring

logger = logging.getLogger(__name__)

SENT_AWAY_PER_BEAT = 10
SENT_AWAY_SHARE = 25
"""Per heartbeat a crowded node sends away ten agents, or one in so many, whichever is more: five a second, or 2 %."""

SENDING_SECONDS = HEARTBEAT_SECONDS - 0.1
"""The shortest time between two times that agents are sent away: a heartbeat, less what timers are early by."""

RATE_SECONDS = 1.0
"""The shortest time that requests are counted over."""


class Membership:
    """Tells the others of this process, every two seconds in one statement, and learns what is wanted of it."""

    def __init__(  # noqa: PLR0913 - a heartbeat reports on each of them
        self,
        engine: Engine,
        process: NodeProcess,
        clock: DatabaseClock,
        keyring: Keyring,
        polls: Polls,
        health: DutyHealth,
    ) -> None:
        self.requests = 0
        """How many requests have come; whoever serves them counts."""
        self.is_draining = False
        self._engine = engine
        self._process = process
        self._clock = clock
        self._keyring = keyring
        self._polls = polls
        self._health = health
        self._id = clock.uuid7()
        self._version = version("comms-api")
        self._is_leaving = False
        self._beating: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self._beaten_at = self._counted_at = time.monotonic()
        self._sent_away_at = -math.inf
        self._counted = 0
        self._requests_per_second = 0.0

    @property
    def is_ready(self) -> bool:
        """Whether agents should come here: not while it drains, nor when the others must take it for lost."""
        return not self.is_draining and time.monotonic() - self._beaten_at < LOST_AFTER_SECONDS

    async def join(self) -> None:
        """Replace the predecessors of this process, and adopt the state that was requested of them."""
        async with self._engine.begin() as connection:
            await store.lock_names(connection)  # what is wanted meanwhile is wanted of this process
            directive = await store.beat(connection, self._id, self._process, self._version, self._heartbeat())
            await store.remove_predecessors(connection, self._id, self._process)
        self._told(directive)

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await self._wanted.wait()
            self._wanted.clear()
            self._beating = asyncio.create_task(self._beat())
            await asyncio.shield(self._beating)

    def beat_soon(self) -> None:
        """Beat at once: something may be wanted of this process."""
        self._wanted.set()

    def stop(self) -> None:
        """Drain for good; the process is about to end."""
        self._is_leaving = True
        self._change_to("draining")

    async def leave(self) -> None:
        """Remove this process from the members after the current heartbeat.

        A heartbeat that is cancelled may be with the server already: run after the removal, it would join again.
        """
        if self._beating is not None:
            await asyncio.wait([self._beating])
        try:
            async with self._engine.connect() as connection:
                await store.remove(connection, self._id)
        except Exception as error:  # noqa: BLE001 - it leaves all the same
            log_failure(logger, "not signed off, this node will be taken for lost", error)

    async def _beat(self) -> None:
        heartbeat = self._heartbeat()
        try:
            async with self._engine.connect() as connection:
                directive = await store.beat(connection, self._id, self._process, self._version, heartbeat)
        except Exception as error:  # noqa: BLE001 - the heart must go on beating
            log_failure(logger, "heartbeat not told", error)
            return
        self._told(directive)

    def _told(self, directive: Directive) -> None:
        """Note that a heartbeat was told, and do what is wanted."""
        self._beaten_at = time.monotonic()
        if not self._is_leaving and self.is_draining != (directive.state == "draining"):
            self._change_to(directive.state)
        if directive.polls is not None and not self.is_draining:
            self._come_down_to(directive.polls)

    def _come_down_to(self, polls: int) -> None:
        """Send some agents away, if it is time: a notification brings a heartbeat, but none of them away."""
        if self._beaten_at - self._sent_away_at < SENDING_SECONDS:
            return
        self._sent_away_at = self._beaten_at
        held = self._polls.held()
        most = max(SENT_AWAY_PER_BEAT, held // SENT_AWAY_SHARE)
        self._polls.redirect(max(0, min(held - polls, most)))

    def _change_to(self, state: WantedState) -> None:
        self.is_draining = state == "draining"
        logger.info("%s, %d polls held", state, self._polls.held())
        if self.is_draining:
            self._polls.drain()
        else:
            self._polls.resume()
        self.beat_soon()

    def _heartbeat(self) -> Heartbeat:
        self._count()
        return Heartbeat(
            state="draining" if self.is_draining else "active",
            polls=self._polls.held(),
            requests_per_second=round(self._requests_per_second, 1),
            duties=self._health.report(),
            skew_seconds=round(self._clock.skew_seconds, 3) + 0.0,  # no -0.0
            key_ids=sorted(self._keyring.verifiers),
        )

    def _count(self) -> None:
        now = time.monotonic()
        if now - self._counted_at >= RATE_SECONDS:
            self._requests_per_second = (self.requests - self._counted) / (now - self._counted_at)
            self._counted, self._counted_at = self.requests, now
