"""Answer held polls with their agents' orders; one claim serves all agents that wait on this node.

Invariants; each was violated by a bug once:

- A poll is registered before its first claim, so an order that is committed in between wakes the poll.
- The wait has a time limit, the claim has none: claimed orders are delivered or released.
- Releases run in a separate task: they wait for transactions that change a command's phase, and claims must not.
- If an agent has two polls, the newer one gets the orders. The older one is answered without orders, and its end does
  not affect the newer one.
- A notification contains no order and may be lost, so a periodic sweep claims for every waiting agent.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from uuid import UUID

from comms_api.agents.presence import Presence
from comms_api.database.connection import Engine
from comms_api.database.failures import log_failure
from comms_api.database.uuid7 import uuid7_seconds
from comms_api.duties.repeating import Duty
from comms_api.errors import Unauthenticated
from comms_api.meters import Histogram
from comms_api.orders.leases import claim_orders, release_orders
from comms_api.orders.model import Claimed
from comms_api.orders.spans import record_claims
from comms_api.orders.targets import is_service
from comms_api.settings import Settings
from comms_api.spans import RecordSpan
from comms_api.tokens.issuer import Claims, Tokens

logger = logging.getLogger(__name__)

ORDERS_CHANNEL = "comms_api_orders"
"""Notifies nodes of the agents that may have new orders."""

CLAIM_INTERVAL_SECONDS = 0.002
"""Polls and notifications that arrive closer together share a claim."""

UNKNOWN_ADDRESS = "unknown"

REDIRECT = list[Claimed]()
"""The empty answer after which the agent must poll again over a new connection; recognized by identity."""


class _HeldPoll:
    """A poll that waits for its answer."""

    __slots__ = ("address", "answer", "answer_at_end", "is_being_claimed", "is_due_to_end", "token", "was_claimed")

    def __init__(self, token: Claims, address: str) -> None:
        self.token = token
        self.address = address
        self.answer: asyncio.Future[Sequence[Claimed]] = asyncio.get_running_loop().create_future()
        self.answer_at_end = list[Claimed]()
        self.is_being_claimed = False
        self.is_due_to_end = False
        self.was_claimed = False

    @property
    def is_waiting(self) -> bool:
        """Whether the client still waits, and is not about to be answered."""
        return not self.answer.done() and not self.is_due_to_end

    def end(self) -> None:
        """Answer without orders: now or, if a claim is in progress, after it."""
        self.is_due_to_end = True
        if not self.is_being_claimed:
            self.deliver(self.answer_at_end)

    def redirect(self) -> None:
        """End the poll, and make its agent poll again over a new connection."""
        self.answer_at_end = REDIRECT
        self.end()

    def time_out(self) -> None:
        """End the poll, but not before its first claim, so that a poll without a wait gets the due orders."""
        self.is_due_to_end = True
        if self.was_claimed:
            self.end()

    def deliver(self, orders: Sequence[Claimed]) -> bool:
        """Answer with `orders`; return False if the poll has been answered already."""
        if self.answer.done():
            return False
        self.answer.set_result(orders)
        return True

    def fail(self, error: Exception) -> None:
        """Answer with an error."""
        if not self.answer.done():
            self.answer.set_exception(error)


class Dispatcher:
    """Holds the polls of this node, and notifies `presence` of each poll and of each displaced one."""

    def __init__(
        self,
        engine: Engine,
        tokens: Tokens,
        presence: Presence,
        settings: Settings,
        record_span: RecordSpan | None = None,
    ) -> None:
        self._engine = engine
        self._record_span = record_span
        self._presence = presence
        self._tokens = tokens
        self._lease_seconds = settings.lease_seconds
        self._sweep_seconds = settings.sweep_seconds
        self._polls: dict[UUID, _HeldPoll] = {}
        self._due: set[UUID] = set()
        self._has_due = asyncio.Event()
        self._undelivered: list[Claimed] = []
        self._has_undelivered = asyncio.Event()
        self._is_draining = False
        self.claim_seconds = Histogram()
        """The time of each claim."""

        self.offer_seconds = Histogram()
        """The time from the creation of each order to its first offer."""

    def count_held(self) -> int:
        """Return how many polls wait."""
        return len(self._polls)

    def is_held(self, agent_id: UUID) -> bool:
        """Return whether a poll of this agent waits."""
        return agent_id in self._polls

    @contextmanager
    def hold(
        self, agent_id: UUID, token: Claims, wait_seconds: float, address: str | None = None
    ) -> "Iterator[asyncio.Future[Sequence[Claimed]]]":
        """Hold a poll for the block: its answer is the agent's orders, or an empty list after `wait_seconds`.

        It fails with `Unauthenticated` if the token is revoked during the wait, and with the error of its first claim.
        If the answer is cancelled, orders claimed for it are released.
        """
        poll = self._register(agent_id, _HeldPoll(token, address or UNKNOWN_ADDRESS))
        timer = asyncio.get_running_loop().call_later(wait_seconds, poll.time_out)
        if self._is_draining:
            poll.redirect()
        if self._tokens.is_revoked(token):  # the token may have been revoked after the guard checked it
            poll.fail(_revoked())
        try:
            yield poll.answer
        finally:
            timer.cancel()
            if self._polls.get(agent_id) is poll:
                del self._polls[agent_id]

    def _register(self, agent_id: UUID, poll: _HeldPoll) -> _HeldPoll:
        older = self._polls.get(agent_id)
        self._polls[agent_id] = poll
        displaced = older.address if older is not None and older.is_waiting else None
        if not is_service(agent_id):
            self._presence.polled(agent_id, poll.address, displaced)
        if older is not None:
            older.end()
        self._mark_due([agent_id])
        return poll

    def _mark_due(self, agents: Iterable[UUID]) -> None:
        self._due.update(agents)
        self._has_due.set()

    def wake(self, agents: Collection[str] = ()) -> None:
        """Claim soon for these agents if they wait here; without names, for all agents that wait here."""
        self._mark_due(self._polls.keys() & {UUID(agent) for agent in agents} if agents else self._polls)

    def can_deliver(self, agents: Collection[UUID]) -> bool:
        """Return whether each of these agents waits here without a claim in progress; False for no agents."""
        return bool(agents) and all(map(self._is_idle, agents))

    def _is_idle(self, agent_id: UUID) -> bool:
        # A claim in progress may already have an older order, which must go first.
        poll = self._polls.get(agent_id)
        return poll is not None and not poll.is_being_claimed

    async def deliver(self, claimed: Sequence[Claimed]) -> int:
        """Answer polls with orders that a submission has claimed; return how many, and release the others."""
        undelivered = [
            claim for claim in claimed if not (self._is_idle(claim.agent_id) and self._answer(claim.agent_id, [claim]))
        ]
        if undelivered:
            try:
                await self._release(undelivered)
            except Exception as error:  # noqa: BLE001 - the leases expire, and the orders are offered again
                log_failure(logger, "claimed orders were not released; their leases will expire", error)
        return len(claimed) - len(undelivered)

    def end_revoked(self) -> None:
        """End the polls whose token has been revoked."""
        for poll in self._polls.values():
            if self._tokens.is_revoked(poll.token):
                poll.fail(_revoked())

    def drain(self) -> None:
        """Redirect every poll, and new ones at once."""
        self._is_draining = True
        self.redirect(len(self._polls))

    def resume(self) -> None:
        """Hold polls again."""
        self._is_draining = False

    def redirect(self, count: int) -> None:
        """End the `count` polls that have waited longest, and make their agents poll again over new connections."""
        staying = (poll for poll in self._polls.values() if not poll.is_due_to_end)
        for poll in islice(staying, count):
            poll.redirect()

    def duties(self) -> list[Duty]:
        """Return the duties that claim, release, and look for lost notifications and expired leases."""
        return [
            Duty("dispatcher", self._claim, wake=self._has_due),
            Duty("releases", self._release_undelivered, wake=self._has_undelivered),
            Duty("sweep", self._sweep, self._sweep_seconds),
        ]

    async def _sweep(self) -> None:
        self.wake()

    async def _claim(self) -> None:
        due, self._due = self._due, set()
        if waiting := {agent: self._polls[agent] for agent in due if agent in self._polls}:
            await self._claim_for(waiting)
        await asyncio.sleep(CLAIM_INTERVAL_SECONDS)

    async def _claim_for(self, waiting: Mapping[UUID, _HeldPoll]) -> None:
        for poll in waiting.values():
            poll.is_being_claimed = True
        begun_at = time.perf_counter()
        try:
            async with self._engine.connect() as connection:
                claimed = await claim_orders(connection, waiting, self._lease_seconds)
        except Exception as error:
            self._keep_waiting(waiting, error)
            raise
        seconds = time.perf_counter() - begun_at
        self.claim_seconds.observe(seconds)
        if self._record_span is not None:
            record_claims(self._record_span, claimed, seconds)
        self._answer_all(waiting, claimed)

    def _keep_waiting(self, waiting: Mapping[UUID, _HeldPoll], error: Exception) -> None:
        """Keep polls that had a successful claim before, and make them due for the next claim; fail the others."""
        self._due.update(waiting)
        for poll in waiting.values():
            poll.is_being_claimed = False
            if not poll.was_claimed:
                poll.fail(error)
            elif poll.is_due_to_end:
                poll.end()

    def _answer_all(self, waiting: Mapping[UUID, _HeldPoll], claimed: Iterable[Claimed]) -> None:
        claims_by_agent: dict[UUID, list[Claimed]] = defaultdict(list)
        for claim in claimed:
            claims_by_agent[claim.agent_id].append(claim)
        undelivered = [
            claim
            for agent_id, claims in claims_by_agent.items()
            if not self._answer(agent_id, claims)
            for claim in claims
        ]
        for poll in waiting.values():
            poll.is_being_claimed = False
            poll.was_claimed = True
            if poll.is_due_to_end:
                poll.end()
        if undelivered:
            self._undelivered.extend(undelivered)
            self._has_undelivered.set()

    def _answer(self, agent_id: UUID, claims: Sequence[Claimed]) -> bool:
        # The poll of the claim may have ended or been answered, or a newer one may have replaced it.
        newest = self._polls.get(agent_id)
        if newest is None or not newest.deliver(claims):
            return False
        now = self._tokens.now()
        for claim in claims:
            if claim.attempt == 1:
                self.offer_seconds.observe(now - uuid7_seconds(claim.order.order_id))
        return True

    async def _release_undelivered(self) -> None:
        # A failed release is not repeated: it may have been committed, and the order claimed again. Leases expire.
        claims, self._undelivered = self._undelivered, []
        await self._release(claims)
        # A newer poll of the same agent may have found the orders still leased.
        self._mark_due(claim.agent_id for claim in claims)

    async def _release(self, claims: Sequence[Claimed]) -> None:
        async with self._engine.begin() as connection:
            await release_orders(connection, claims)


def _revoked() -> Unauthenticated:
    return Unauthenticated("The token was revoked.")
