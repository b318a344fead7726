"""This process as a member of the cluster: it sends heartbeats, and follows the directives of operators."""

import asyncio
import logging
import math
import time

from comms_api import __version__
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
from comms_api.duties.repeating import EARLY_SHARE, Duty
from comms_api.http1.requests import RequestCount
from comms_api.tokens.keyring import Keyring

logger = logging.getLogger(__name__)

REDIRECTED_PER_HEARTBEAT = 10
REDIRECTED_FRACTION = 25
"""A crowded process redirects ten agents per heartbeat, or one in 25 if that is more: five a second, or 2 %."""

REDIRECTION_SECONDS = HEARTBEAT_SECONDS * (1 - EARLY_SHARE) - 0.1
"""The least time between two redirections: the least between two heartbeats, less the error of timers."""

RATE_SECONDS = 1.0
"""The shortest time over which requests are counted."""


class Membership:
    """Sends the heartbeats of this process, one statement every two seconds, and applies the directives they return."""

    def __init__(  # noqa: PLR0913 - a heartbeat reports on each of them
        self,
        engine: Engine,
        process: NodeProcess,
        clock: DatabaseClock,
        keyring: Keyring,
        polls: Polls,
        health: DutyHealth,
    ) -> None:
        self.requests = RequestCount()
        """The requests of this process; its sites count them."""

        self.is_draining = False
        self._engine = engine
        self._process = process
        self._clock = clock
        self._keyring = keyring
        self._polls = polls
        self._health = health
        self._id = clock.uuid7()
        self._version = __version__
        self._is_leaving = False
        self._beating: asyncio.Task[None] | None = None
        self._is_due = asyncio.Event()
        self._beaten_at = self._counted_at = time.monotonic()
        self._redirected_at = -math.inf
        self._counted = 0
        self._requests_per_second = 0.0

    @property
    def is_ready(self) -> bool:
        """Whether agents should come here: not while the process drains, nor when other nodes must consider it lost."""
        return not self.is_draining and self.silent_seconds < LOST_AFTER_SECONDS

    @property
    def silent_seconds(self) -> float:
        """The time since the database has stored a heartbeat of this process."""
        return time.monotonic() - self._beaten_at

    async def join(self) -> None:
        """Send the first heartbeat, replace the predecessors of this process, and adopt the state requested of them."""
        async with self._engine.begin() as connection:
            await store.lock_names(connection)  # a state requested from now on then reaches this process
            directive = await store.beat(connection, self._id, self._process, self._version, self._heartbeat())
            await store.remove_predecessors(connection, self._id, self._process)
            await store.record_joining(connection, self._process)
        self._apply(directive)

    def duties(self) -> list[Duty]:
        """Return the duty that sends a heartbeat every two seconds, and on demand."""
        return [Duty("heartbeat", self._beat, HEARTBEAT_SECONDS, self._is_due)]

    async def _beat(self) -> None:
        self._beating = asyncio.create_task(self._send_heartbeat())
        await asyncio.shield(self._beating)

    def beat_soon(self) -> None:
        """Send a heartbeat at once, because there may be a new directive."""
        self._is_due.set()

    def stop(self) -> None:
        """Drain until the process ends, whatever operators request."""
        self._is_leaving = True
        self._change_to("draining")

    async def leave(self) -> None:
        """Remove this process from the members after the current heartbeat.

        Cancelling the heartbeat is no alternative: PostgreSQL may run its statement after the removal, and so add the
        process again.
        """
        if self._beating is not None:
            await asyncio.wait([self._beating])
        try:
            async with self._engine.connect() as connection:
                await store.remove(connection, self._id)
        except Exception as error:  # noqa: BLE001 - the process ends anyway
            log_failure(logger, "cannot leave the cluster, this node will count as lost", error)

    async def _send_heartbeat(self) -> None:
        heartbeat = self._heartbeat()
        async with self._engine.connect() as connection:
            directive = await store.beat(connection, self._id, self._process, self._version, heartbeat)
        self._apply(directive)

    def _apply(self, directive: Directive) -> None:
        """Record that a heartbeat was stored, and follow the directive that it returned."""
        self._beaten_at = time.monotonic()
        if not self._is_leaving and self.is_draining != (directive.state == "draining"):
            self._change_to(directive.state)
        if directive.polls is not None and not self.is_draining:
            self._redirect_down_to(directive.polls)

    def _redirect_down_to(self, polls: int) -> None:
        """Redirect some agents, at most once per heartbeat interval: notifications cause additional heartbeats."""
        if self._beaten_at - self._redirected_at < REDIRECTION_SECONDS:
            return
        self._redirected_at = self._beaten_at
        held = self._polls.held()
        redirected_maximum = max(REDIRECTED_PER_HEARTBEAT, held // REDIRECTED_FRACTION)
        self._polls.redirect(max(0, min(held - polls, redirected_maximum)))

    def _change_to(self, state: WantedState) -> None:
        self.is_draining = state == "draining"
        logger.info("%s, %d polls held", state, self._polls.held())
        if self.is_draining:
            self._polls.drain()
        else:
            self._polls.resume()
        self.beat_soon()

    def _heartbeat(self) -> Heartbeat:
        now = time.monotonic()
        if now - self._counted_at >= RATE_SECONDS:
            self._requests_per_second = (self.requests.total - self._counted) / (now - self._counted_at)
            self._counted, self._counted_at = self.requests.total, now
        return Heartbeat(
            state="draining" if self.is_draining else "active",
            polls=self._polls.held(),
            requests_per_second=round(self._requests_per_second, 1),
            duties=self._health.report(),
            skew_seconds=round(self._clock.skew_seconds, 3) + 0.0,  # no -0.0
            key_ids=sorted(self._keyring.verifiers),
        )
