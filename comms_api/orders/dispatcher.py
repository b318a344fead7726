"""Give each held poll its agent's orders, with one claim for all the agents that wait on this node.

Invariants, each with a reason that was somebody's bug:

- A poll is registered before its first claim, so that an order that is committed in between is seen by one of the two.
- The wait is timed out, never the claim: orders that were claimed are answered, or released.
- Releases run in a separate task: they wait for transactions that change a command's phase, and claims must not.
- Of two polls of one agent the newest wins; the older is answered empty and its end does not touch the newer.
- Notifications say nothing of orders and may be lost: a slow sweep asks for every agent that waits.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from comms_api.agents.presence import Presence
from comms_api.database.direct import direct
from comms_api.database.failures import log_failure
from comms_api.errors import Unauthenticated
from comms_api.orders.leases import claim_orders, release_orders
from comms_api.orders.model import Claimed
from comms_api.orders.targets import is_service
from comms_api.protocol import Order
from comms_api.settings import Settings
from comms_api.tokens.issuer import Claims, Tokens

logger = logging.getLogger(__name__)

ORDERS_CHANNEL = "comms_api_orders"
"""Says who may have orders."""

CLAIM_INTERVAL_SECONDS = 0.002
"""Polls and notifications that come closer together share a claim."""

RETRY_SECONDS = 0.5

UNKNOWN_ADDRESS = "unknown"

ELSEWHERE = list[Order]()
"""The answer to a poll whose agent should come again by another connection."""


class _Waiter:
    """One held poll."""

    __slots__ = ("address", "answer", "claims", "farewell", "is_being_claimed", "is_due_to_end", "was_claimed")

    def __init__(self, claims: Claims, address: str) -> None:
        self.claims = claims
        self.address = address
        self.answer: asyncio.Future[list[Order]] = asyncio.get_running_loop().create_future()
        self.farewell = list[Order]()
        self.is_being_claimed = False
        self.is_due_to_end = False
        self.was_claimed = False

    @property
    def is_waiting(self) -> bool:
        """Whether the client still waits, and is not about to be answered."""
        return not self.answer.done() and not self.is_due_to_end

    def end(self) -> None:
        """Answer with nothing; while a claim is under way, after it."""
        self.is_due_to_end = True
        if not self.is_being_claimed:
            self.give(self.farewell)

    def send_away(self) -> None:
        """Answer with nothing, and have the agent come again by another connection."""
        self.farewell = ELSEWHERE
        self.end()

    def time_out(self) -> None:
        """Answer with nothing, but after the first claim: a poll that waits for nothing gets what is there."""
        self.is_due_to_end = True
        if self.was_claimed:
            self.end()

    def give(self, orders: list[Order]) -> bool:
        """Answer with `orders`; return whether the poll was still there to take them."""
        if self.answer.done():
            return False
        self.answer.set_result(orders)
        return True

    def fail(self, error: Exception) -> None:
        """Answer with an error."""
        if not self.answer.done():
            self.answer.set_exception(error)


class Dispatcher:
    """Holds the polls of this node."""

    def __init__(self, engine: AsyncEngine, tokens: Tokens, presence: Presence, settings: Settings) -> None:
        """Hold no poll yet; `presence` is notified of each poll, and of each displaced poll."""
        self._engine = engine
        self._presence = presence
        self._tokens = tokens
        self._lease_seconds = settings.lease_seconds
        self._sweep_seconds = settings.sweep_seconds
        self._waiters: dict[UUID, _Waiter] = {}
        self._due: set[UUID] = set()
        self._wanted = asyncio.Event()
        self._unwanted: list[Claimed] = []
        self._has_unwanted = asyncio.Event()
        self._is_draining = False

    def count_held(self) -> int:
        """Return how many polls wait."""
        return len(self._waiters)

    @contextmanager
    def hold(
        self, agent_id: UUID, claims: Claims, wait_seconds: float, address: str | None = None
    ) -> "Iterator[asyncio.Future[list[Order]]]":
        """Hold a poll for the block: its answer is the agent's orders, or an empty list after `wait_seconds`.

        It fails with `Unauthenticated` when the token is revoked meanwhile, and with what a first claim raised. What is
        claimed for an answer that was cancelled is given back.
        """
        waiter = self._register(agent_id, _Waiter(claims, address or UNKNOWN_ADDRESS))
        timer = asyncio.get_running_loop().call_later(wait_seconds, waiter.time_out)
        if self._is_draining:
            waiter.send_away()
        if self._tokens.is_revoked(claims):  # after the guard let it pass, and after the other polls were ended
            waiter.fail(_revoked())
        try:
            yield waiter.answer
        finally:
            timer.cancel()
            if self._waiters.get(agent_id) is waiter:
                del self._waiters[agent_id]

    def _register(self, agent_id: UUID, waiter: _Waiter) -> _Waiter:
        older = self._waiters.get(agent_id)
        self._waiters[agent_id] = waiter
        displaced = older.address if older is not None and older.is_waiting else None
        if not is_service(agent_id):
            self._presence.polled(agent_id, waiter.address, displaced)
        if older is not None:
            older.end()
        self._want([agent_id])
        return waiter

    def _want(self, agents: Iterable[UUID]) -> None:
        self._due.update(agents)
        self._wanted.set()

    def wake(self, agents: Collection[str] = ()) -> None:
        """Ask for those of the agents that wait, since they may have orders; without any, for all who wait."""
        self._want(self._waiters.keys() & {UUID(agent) for agent in agents} if agents else self._waiters)

    def holds(self, agents: Collection[UUID]) -> bool:
        """Return whether these are agents whose polls are held here, with no claim under way for them."""
        return bool(agents) and all(map(self._is_idle, agents))

    def _is_idle(self, agent_id: UUID) -> bool:
        # A claim under way may have an older order already, which must go first.
        waiter = self._waiters.get(agent_id)
        return waiter is not None and not waiter.is_being_claimed

    async def give(self, claimed: Sequence[Claimed]) -> int:
        """Answer polls by orders that were claimed for them, and return by how many; the others are released."""
        unwanted = [
            claim for claim in claimed if not (self._is_idle(claim.agent_id) and self._give(claim.agent_id, [claim]))
        ]
        if unwanted:
            await self._release(unwanted)
        return len(claimed) - len(unwanted)

    def end_revoked(self) -> None:
        """End the polls whose token has been revoked."""
        for waiter in self._waiters.values():
            if self._tokens.is_revoked(waiter.claims):
                waiter.fail(_revoked())

    def drain(self) -> None:
        """Answer every poll, those to come at once."""
        self._is_draining = True
        self.send_away(len(self._waiters))

    def resume(self) -> None:
        """Hold polls again."""
        self._is_draining = False

    def send_away(self, count: int) -> None:
        """Answer so many polls, those first that have waited longest, and have their agents come again elsewhere."""
        staying = (waiter for waiter in self._waiters.values() if not waiter.is_due_to_end)
        for waiter in islice(staying, count):
            waiter.send_away()

    async def run(self) -> None:
        """Claim for those who are due, until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            due, self._due = self._due, set()
            if waiting := {agent: self._waiters[agent] for agent in due if agent in self._waiters}:
                await self._claim_for(waiting)
            await asyncio.sleep(CLAIM_INTERVAL_SECONDS)

    async def sweep(self) -> None:
        """Ask for every agent that waits now and then: for lost notifications and leases that have run out."""
        while True:
            await asyncio.sleep(self._sweep_seconds)
            self.wake()

    async def _claim_for(self, waiting: Mapping[UUID, _Waiter]) -> None:
        for waiter in waiting.values():
            waiter.is_being_claimed = True
        try:
            async with direct(self._engine) as connection:
                claimed = await claim_orders(connection, waiting, self._lease_seconds)
        except Exception as error:  # noqa: BLE001 - whatever it is, the polls must learn of it
            log_failure(logger, "orders not claimed", error)
            self._put_off(waiting, error)
            return
        self._hand_out(waiting, claimed)

    def _put_off(self, waiting: Mapping[UUID, _Waiter], error: Exception) -> None:
        """Keep the polls that have waited before, and tell those that just came."""
        for waiter in waiting.values():
            waiter.is_being_claimed = False
            if not waiter.was_claimed:
                waiter.fail(error)
            elif waiter.is_due_to_end:
                waiter.end()
        asyncio.get_running_loop().call_later(RETRY_SECONDS, self._want, list(waiting))

    def _hand_out(self, waiting: Mapping[UUID, _Waiter], claimed: Iterable[Claimed]) -> None:
        claims_of: dict[UUID, list[Claimed]] = defaultdict(list)
        for claim in claimed:
            claims_of[claim.agent_id].append(claim)
        unwanted = [
            claim for agent_id, claims in claims_of.items() if not self._give(agent_id, claims) for claim in claims
        ]
        for waiter in waiting.values():
            waiter.is_being_claimed = False
            waiter.was_claimed = True
            if waiter.is_due_to_end:
                waiter.end()
        if unwanted:
            self._unwanted.extend(unwanted)
            self._has_unwanted.set()

    def _give(self, agent_id: UUID, claims: Sequence[Claimed]) -> bool:
        # The poll that the claim was made for may be gone, or answered, or replaced by a newer one.
        newest = self._waiters.get(agent_id)
        return newest is not None and newest.give([claim.order for claim in claims])

    async def run_releases(self) -> None:
        """Release the claims of polls that are gone, until cancelled."""
        while True:
            await self._has_unwanted.wait()
            self._has_unwanted.clear()
            claims, self._unwanted = self._unwanted, []
            await self._release(claims)
            # A newer poll of the same agent may have found the orders still leased.
            self._want(claim.agent_id for claim in claims)

    async def _release(self, claims: Sequence[Claimed]) -> None:
        try:
            async with direct(self._engine) as connection, connection.transaction():
                await release_orders(connection, claims)
        except Exception as error:  # noqa: BLE001 - the leases expire, and the orders are offered again
            log_failure(logger, "claims not released, their leases will run out", error)


def _revoked() -> Unauthenticated:
    return Unauthenticated("The token was revoked.")
