"""Schedule lookups: one per question, shared by all callers; the running and the waiting lookups are bounded.

::

    ask ── refused a moment ago? ── too many failures? ── in flight? wait for it
         └─ a new lookup: queue ── slot ── source ──(transport fails)── next source
                                              └── refusals are remembered

A lookup is a separate task, so callers may leave; its deadline counts from the first caller.
"""

import asyncio
import logging
from collections import Counter
from contextlib import AsyncExitStack
from importlib import import_module

import msgspec

from comms_api.database.connection import Engine
from comms_api.errors import CommsError, TooManyRequests, Unavailable
from comms_api.fairness.recent import Recent
from comms_api.fairness.slots import Slots
from comms_api.key_requests.answers import BadAnswer
from comms_api.key_requests.circuit_breaker import CircuitBreaker, CircuitOpen
from comms_api.key_requests.flights import AskedElsewhere, Flights
from comms_api.key_requests.health import check_program, check_socket
from comms_api.key_requests.limits import KeyRequestLimits
from comms_api.key_requests.model import ExternalAgent, KeySettings, Question, Refusal
from comms_api.key_requests.sources.programs import ProgramSource
from comms_api.key_requests.sources.sockets import SocketSource
from comms_api.key_requests.sources.source import Source, SourceUnavailable
from comms_api.key_requests.sources.sql import SqlSource

logger = logging.getLogger(__name__)

CLIENTS_TO_FILL = 4
"""At least this many clients are needed to fill the queue."""

Outcome = ExternalAgent | Refusal | CommsError


class Counters(msgspec.Struct):
    """The numbers of key requests since the start.

    Of the requests `received`, some were answered from memory (`remembered`), some `joined` a lookup in flight, and
    some found the queue full (`overflowed`); the others are `lookups`. Each lookup ends as one of `agents`, `refusals`,
    `limited`, `bad_answers` and `unavailable`. `fallbacks` counts lookups that continued with the next source
    after one failed.
    """

    received: int = 0
    remembered: int = 0
    joined: int = 0
    overflowed: int = 0
    lookups: int = 0
    fallbacks: int = 0
    agents: int = 0
    refusals: int = 0
    limited: int = 0
    bad_answers: int = 0
    unavailable: int = 0


class KeyRequests:
    """The key requests of one node; create and use it on one event loop.

    With an engine, the nodes on its database limit failures together, look an agent up once at a time, and share
    refusals.
    """

    def __init__(self, settings: KeySettings, engine: Engine | None = None) -> None:
        self._settings = settings
        self._limits = None if engine is None else KeyRequestLimits(engine, settings)
        seconds = settings.timeout_seconds, settings.refusal_seconds
        self._flights = None if engine is None else Flights(engine, *seconds)
        self._closing = AsyncExitStack()
        self._sources = _sources(settings, self._closing)
        self._slots = Slots(settings.threads)
        self._lookups_maximum = settings.threads + settings.queue_size
        self._lookups: dict[Question, asyncio.Task[Outcome]] = {}
        self._lookups_of = Counter[str]()
        """The number of lookups that each client has begun."""

        self._refusals = Recent[Question, Refusal](settings.refusal_seconds)
        self.counters = Counters()

    @property
    def in_flight(self) -> int:
        """The number of lookups that run or wait for a slot."""
        return len(self._lookups)

    async def ask(self, question: Question, client: str = "") -> ExternalAgent | Refusal:
        """Return the requested agent, or the source's refusal.

        Clients take turns, and each has a quarter of the queue; without a name, all of it.

        Raises `Unavailable` when the queue is full or the deadline passes in it, `SourceUnavailable` when no source
        answers, and `BadAnswer` for an invalid answer. The reason is logged once per lookup; the client does not see
        it. Raises `TooManyRequests` when too many key requests of the client have failed.
        """
        self.counters.received += 1
        if refusal := self._refusals.find(question):
            self.counters.remembered += 1
            return refusal
        if self._limits is not None:
            self._limits.check_remembered(client)
        lookup = self._lookups.get(question)
        self.counters.joined += lookup is not None
        outcome = await asyncio.shield(lookup or self._begin(question, client))
        if isinstance(outcome, CommsError):
            raise outcome.with_traceback(None)  # the callers share the error, but not its traceback
        return outcome

    async def charge_failure(self, client: str) -> None:
        """Count a failed key request of a client: a refusal, or a client that does not have the agent's key."""
        if self._limits is not None:
            await self._limits.charge(client)

    async def check_health(self) -> None:
        """Check the sources at the node's start.

        Raises `ConfigurationError`, which names the setting, if a source can never work. Logs a warning if a socket
        does not exist yet.
        """
        if self._settings.program:
            check_program(self._settings)
        if self._settings.socket:
            await check_socket(self._settings.socket)

    async def close(self) -> None:
        """Cancel all lookups and kill their programs; waiting callers get `Unavailable`."""
        lookups = list(self._lookups.values())
        for lookup in lookups:
            lookup.cancel()
        await asyncio.gather(*lookups, return_exceptions=True)
        await self._closing.aclose()

    def _begin(self, question: Question, client: str) -> asyncio.Task[Outcome]:
        share = max(1, self._lookups_maximum // CLIENTS_TO_FILL) if client else self._lookups_maximum
        if self.in_flight >= self._lookups_maximum or self._lookups_of[client] >= share:
            self.counters.overflowed += 1
            raise Unavailable("Too many key requests are waiting for an answer; try again later.")
        self.counters.lookups += 1
        lookup = asyncio.create_task(
            self._look_up(question, client), name=f"key request {question.kind}:{question.value}"
        )
        self._lookups[question] = lookup
        self._lookups_of[client] += 1
        lookup.add_done_callback(lambda _: self._end(question, client))
        return lookup

    def _end(self, question: Question, client: str) -> None:
        del self._lookups[question]
        self._lookups_of[client] -= 1
        if not self._lookups_of[client]:
            del self._lookups_of[client]

    async def _look_up(self, question: Question, client: str) -> Outcome:
        deadline = asyncio.get_running_loop().time() + self._settings.timeout_seconds
        try:
            outcome: Outcome = await self._look_up_in_turn(question, client, deadline)
        except (Unavailable, TooManyRequests) as error:
            outcome = error
        except TimeoutError:
            outcome = Unavailable("The key request waited too long for its turn; try again later.")
        except asyncio.CancelledError:  # only `close` cancels a lookup
            outcome = Unavailable("This node is stopping; try again later.")
        self._note(question, outcome)
        return outcome

    async def _look_up_in_turn(self, question: Question, client: str, deadline: float) -> ExternalAgent | Refusal:
        """Ask the sources in the client's turn; wait for another node that asks about the agent."""

        async def ask() -> ExternalAgent | Refusal:
            outcome = await self._ask_sources(question, deadline)
            if isinstance(outcome, Refusal):
                await self.charge_failure(client)
            return outcome

        async with self._slots.slot(client, deadline):
            if self._limits is not None:
                await self._limits.check(client)
            if self._flights is None:
                return await ask()
            if (outcome := await self._flights.look_up(question, ask)) is not None:
                return outcome
        async with asyncio.timeout_at(deadline):
            return await self._flights.wait(question)

    async def _ask_sources(self, question: Question, deadline: float) -> ExternalAgent | Refusal:
        """Ask the sources in turn; each may take an equal share of the remaining time."""
        failure = SourceUnavailable("no source is set")
        for left in range(len(self._sources), 0, -1):
            seconds = (deadline - asyncio.get_running_loop().time()) / left
            try:
                return await self._sources[-left].ask(question, seconds)
            except SourceUnavailable as error:
                failure = error
                self._note_fallback(error, left)
        raise failure

    def _note_fallback(self, error: SourceUnavailable, left: int) -> None:
        if left > 1:
            self.counters.fallbacks += 1
            level = logging.DEBUG if isinstance(error, CircuitOpen) else logging.INFO
            logger.log(level, "a source failed; the key request continues with the next one: %s", error.reason)

    def _note(self, question: Question, outcome: Outcome) -> None:
        match outcome:
            case ExternalAgent():
                self.counters.agents += 1
            case Refusal():
                self.counters.refusals += 1
                self._refusals.remember(question, outcome)
                refusal = f"refused with code {outcome.code}: {outcome.message}"
                logger.info("key request %s %s %s", question.kind, question.value, refusal)
            case AskedElsewhere():
                self.counters.joined += 1
            case BadAnswer():
                self.counters.bad_answers += 1
                logger.warning("key request %s %s: bad answer: %s", question.kind, question.value, outcome.reason)
            case TooManyRequests():
                self.counters.limited += 1  # the login logs it
            case _:
                self.counters.unavailable += 1
                reason = outcome.reason if isinstance(outcome, SourceUnavailable) else outcome.detail
                is_paused = isinstance(outcome, CircuitOpen)  # the start of the pause was logged already
                level = logging.DEBUG if is_paused else logging.WARNING
                logger.log(level, "key request %s %s: %s", question.kind, question.value, reason)


def _sources(settings: KeySettings, closing: AsyncExitStack) -> list[Source]:
    """Return the sources in the order in which they are asked; the stack closes them.

    Only the settings of a web service import httpx.
    """
    sources: list[Source] = []
    if settings.socket:
        sources.append(SocketSource(settings.socket, settings.answer_bytes_maximum))
    if settings.url:
        web = import_module("comms_api.key_requests.sources.web").WebSource(settings.url, settings)
        closing.push_async_callback(web.close)
        sources.append(web)
    if settings.database_url:
        sql = SqlSource(settings.database_url, settings)
        closing.push_async_callback(sql.close)
        sources.append(sql)
    if settings.program:
        program = ProgramSource(settings)
        closing.callback(program.close)
        sources.append(program)
    return [CircuitBreaker(source) for source in sources]
