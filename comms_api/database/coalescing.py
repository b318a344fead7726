"""Let all waiting requests share one statement and one commit, in turn and without sharing each other's failures.

While one group is being stored, the next one gathers, so a slower database gets larger groups, and a single request
waits for no other. If PostgreSQL refuses the data of a group, the group is halved until the refused items are alone;
only they are answered as poisoned. Owners (agents) take turns, one submission each, and one writer at a time stores an
owner's submissions, so a busy owner delays the others by at most one submission. A writer can be reserved for small
submissions, so that they do not wait while large ones keep the other writers busy. A submission whose caller has left,
or that has waited for too long, is dropped when its turn comes.
"""

import asyncio
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from functools import partial
from itertools import islice
from typing import Generic, TypeVar

import msgspec

from comms_api.database.failures import Refusal, is_outage
from comms_api.duties.repeating import Duty
from comms_api.errors import ClientLeft, CommsError, Unavailable
from comms_api.fairness.rounds import over_rounds
from comms_api.meters import SIZES, Histogram
from comms_api.spans import span

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

GROUP_SIZE_MAXIMUM = 20_000
WAIT_SECONDS_MAXIMUM = 30.0
"""The time in which the turn of a submission must come: what three statements may take with the default settings."""

SETTLED_AT_ONCE = 32
"""The number of callers that continue in a round of the event loop: hundreds would be one long round.

Callers that continue together often send their next requests together, which then share a statement.
"""

UNLIMITED = sys.maxsize


def _is_never_gone() -> bool:
    return False


IS_CALLER_GONE: ContextVar[Callable[[], bool]] = ContextVar("is_caller_gone", default=_is_never_gone)
"""Returns whether the caller of this task has left; called when its turn comes."""


class _Submission(msgspec.Struct, Generic[Item, Outcome], frozen=True):
    owner: Hashable
    items: Sequence[Item]
    size: int
    answer: "asyncio.Future[Sequence[Outcome]]"
    is_caller_gone: Callable[[], bool]
    deadline: float
    """By the clock of the event loop."""

    def find_refusal(self, now: float) -> CommsError | None:
        """Return why the submission must not be stored any more, or None."""
        if self.is_caller_gone():
            return ClientLeft()
        if now > self.deadline:
            return Unavailable("The database takes too long; nothing was stored. Try again later.")
        return None


class Coalescer(Generic[Item, Outcome]):
    """Gathers the items of many callers, stores them together, and gives each caller its own outcomes.

    `store` stores a group and returns one outcome per item, in order; `refuse` handles a poisoned item, if there can be
    any. A group ends with the submission that reaches `group_size_maximum`.
    """

    def __init__(
        self,
        store: Callable[[Sequence[Item]], Awaitable[Sequence[Outcome]]],
        refuse: Callable[[Item, str], Awaitable[Outcome]] | None = None,
        group_size_maximum: int = GROUP_SIZE_MAXIMUM,
        wait_seconds_maximum: float = WAIT_SECONDS_MAXIMUM,
    ) -> None:
        self._store = store
        self._refuse = refuse
        self._group_size_maximum = group_size_maximum
        self._wait_seconds_maximum = wait_seconds_maximum
        self._waiting: dict[Hashable, deque[_Submission[Item, Outcome]]] = {}
        """The waiting submissions by owner; the first owner is next."""

        self._served: set[Hashable] = set()
        """The owners of the submissions being stored: another writer would only wait for the same locks."""

        self._has_work = asyncio.Event()
        self._writers = 0
        self._unanswered = 0
        """The total size of the submissions that wait or are being stored."""

        self.groups = Histogram(SIZES)
        """The number of submissions in each group."""

        self.seconds = Histogram()
        """The time to store each group."""

    @property
    def waiting(self) -> int:
        """The number of submissions that wait."""
        return sum(map(len, self._waiting.values()))

    async def submit(self, owner: Hashable, items: Sequence[Item], size: int | None = None) -> Sequence[Outcome]:
        """Return the outcomes of an owner's `items` after their commit; raises the error of `store`.

        Without a `size`, the number of items is the size of the submission.

        Raises `ClientLeft`, and stores nothing, when `IS_CALLER_GONE` holds before the items are taken, and
        `Unavailable` when they are not taken in time. Cancelling the caller does not withdraw its items: they may be
        stored already.
        """
        loop = asyncio.get_running_loop()
        answer, deadline = loop.create_future(), loop.time() + self._wait_seconds_maximum
        size = len(items) if size is None else size
        submission = _Submission[Item, Outcome](owner, items, size, answer, IS_CALLER_GONE.get(), deadline)
        self._waiting.setdefault(owner, deque()).append(submission)
        self._unanswered += size
        self._has_work.set()
        with span("commit"):
            return await submission.answer

    def duty(self, name: str, size_maximum: int = UNLIMITED) -> Duty:
        """Return the duty of one more writer, which stores submissions of up to `size_maximum`."""
        self._writers += 1
        return Duty(name, partial(self._store_group, size_maximum), wake=self._has_work)

    async def _store_group(self, size_maximum: int) -> None:
        group = self._take_group(size_maximum)
        if not group:
            return
        owners = {submission.owner for submission in group}
        self._served |= owners
        self.groups.observe(len(group))
        begun_at = time.perf_counter()
        try:
            await self._serve(group)
        finally:
            self.seconds.observe(time.perf_counter() - begun_at)
            self._served -= owners
            self._unanswered -= sum(submission.size for submission in group)
            self._has_work.set()  # more submissions may wait, new ones or of these owners

    def _take_group(self, size_maximum: int) -> list[_Submission[Item, Outcome]]:
        """Take one writer's share of the submissions, and leave the other submissions to other writers."""
        group: list[_Submission[Item, Outcome]] = []
        now = asyncio.get_running_loop().time()
        missing = max(1, min(self._group_size_maximum, -(-self._unanswered // self._writers)))
        while missing > 0 and (owners := self._next_owners(missing, size_maximum)):
            for submission in map(self._take_next, owners):
                if (refusal := submission.find_refusal(now)) is not None:
                    self._unanswered -= submission.size
                    _settle(submission.answer, refusal)
                else:
                    group.append(submission)
                    missing -= submission.size
        return group

    def _take_next(self, owner: Hashable) -> _Submission[Item, Outcome]:
        submissions = self._waiting.pop(owner)
        submission = submissions.popleft()
        if submissions:
            self._waiting[owner] = submissions  # at the end of the queue
        return submission

    def _next_owners(self, missing: int, size_maximum: int) -> list[Hashable]:
        """Return the next owners in turn, until the sizes of their next submissions add up to `missing`."""
        owners, taken = list[Hashable](), 0
        for owner, submissions in self._waiting.items():
            if taken >= missing:
                break
            if submissions[0].size <= size_maximum and owner not in self._served:
                owners.append(owner)
                taken += submissions[0].size
        return owners

    async def _serve(self, group: Sequence[_Submission[Item, Outcome]]) -> None:
        try:
            items = [item for submission in group for item in submission.items]
            outcomes = await store_or_halve(items, self._store, self._refuse)
        except Exception as error:  # noqa: BLE001 - every waiting request must receive it
            await self._fail(group, error)
            return
        left = iter(outcomes)
        parts = ((submission.answer, list(islice(left, len(submission.items)))) for submission in group)
        over_rounds(_settle_each(parts), SETTLED_AT_ONCE)

    async def _fail(self, group: Sequence[_Submission[Item, Outcome]], error: Exception) -> None:
        if len(group) > 1 and not is_outage(error):
            for submission in group:  # a bug triggered by one submission must not fail the others
                await self._serve([submission])
        else:
            failures = ((submission.answer, error) for submission in group)
            over_rounds(_settle_each(failures), SETTLED_AT_ONCE)


async def store_or_halve(
    items: Sequence[Item],
    store: Callable[[Sequence[Item]], Awaitable[Sequence[Outcome]]],
    refuse: Callable[[Item, str], Awaitable[Outcome]] | None,
) -> Sequence[Outcome]:
    """Store items together; if PostgreSQL refuses some of them, halve the group until they are alone.

    Without `refuse`, a refusal is an error like any other.
    """
    try:
        return await store(items)
    except Refusal as error:
        if refuse is None:
            raise
        reason = str(error)
    if len(items) == 1:
        return [await refuse(items[0], reason)]
    middle = len(items) // 2
    first = await store_or_halve(items[:middle], store, refuse)
    return [*first, *await store_or_halve(items[middle:], store, refuse)]


def _settle_each(
    settlements: Iterable[tuple["asyncio.Future[Sequence[Outcome]]", Sequence[Outcome] | Exception]],
) -> Iterator[None]:
    for answer, outcome in settlements:
        _settle(answer, outcome)
        yield


def _settle(answer: "asyncio.Future[Outcome]", outcome: Outcome | Exception) -> None:
    if answer.done():
        return
    if isinstance(outcome, Exception):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)
