"""Let all requests that wait share one statement and one commit, without sharing one another's faults, and in turn.

While one group is being stored the next one gathers, so a group is as large as the database is slow: alone, a request
waits for nobody. If PostgreSQL refuses the data of a group, the group is halved until the refused items are alone, and
only they are answered as poisoned. Owners (agents) take turns, one submission each, and one writer at a time stores an
owner's submissions, so a busy owner delays the others by at most one submission. A writer can be reserved for small
submissions, so that these do not wait while large ones keep the others busy. A submission whose caller has left is
dropped when its turn comes.
"""

import asyncio
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Generic, TypeVar

import msgspec

from comms_api.database.failures import Refusal, is_outage
from comms_api.duties.repeating import Duty
from comms_api.errors import ClientLeft

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

GROUP_SIZE_MAXIMUM = 20_000
UNLIMITED = sys.maxsize


def _is_never_gone() -> bool:
    return False


IS_CALLER_GONE: ContextVar[Callable[[], bool]] = ContextVar("is_caller_gone", default=_is_never_gone)
"""Whether the caller of this task is gone; checked again when its turn comes."""


class _Submission(msgspec.Struct, Generic[Item, Outcome], frozen=True):
    owner: Hashable
    items: Sequence[Item]
    size: int
    answer: "asyncio.Future[Sequence[Outcome]]"
    is_caller_gone: Callable[[], bool]


class Coalescer(Generic[Item, Outcome]):
    """Gathers the items of many callers, stores them together, and gives each caller its own outcomes.

    `store` stores a group and returns one outcome per item, in order; `refuse` handles a poisoned item. A group ends
    with the submission that reaches `group_size_maximum`.
    """

    def __init__(
        self,
        store: Callable[[Sequence[Item]], Awaitable[Sequence[Outcome]]],
        refuse: Callable[[Item, str], Awaitable[Outcome]],
        group_size_maximum: int = GROUP_SIZE_MAXIMUM,
    ) -> None:
        self._store = store
        self._refuse = refuse
        self._group_size_maximum = group_size_maximum
        self._waiting: dict[Hashable, deque[_Submission[Item, Outcome]]] = {}
        """By owner; the first is next."""

        self._served: set[Hashable] = set()
        """The owners of what is being stored: another writer would only wait for the same locks."""

        self._wanted = asyncio.Event()
        self._writers = 0
        self._unanswered = 0
        """The size of all submissions that wait or are being stored."""

    async def submit(self, owner: Hashable, items: Sequence[Item], size: int | None = None) -> Sequence[Outcome]:
        """Return the outcomes of an owner's `items` after their commit; raises what the store raised.

        Without a `size`, the number of items is the size of the submission.

        Raises `ClientLeft`, and stores nothing, when `IS_CALLER_GONE` holds before the items are taken. A caller that
        is cancelled does not take its items back: they may be stored already.
        """
        answer = asyncio.get_running_loop().create_future()
        size = len(items) if size is None else size
        submission = _Submission[Item, Outcome](owner, items, size, answer, IS_CALLER_GONE.get())
        self._waiting.setdefault(owner, deque()).append(submission)
        self._unanswered += size
        self._wanted.set()
        return await submission.answer

    def duty(self, name: str, size_maximum: int = UNLIMITED) -> Duty:
        """Return the duty of one more writer, which stores submissions of up to `size_maximum`."""
        self._writers += 1
        return Duty(name, partial(self._store_group, size_maximum), wake=self._wanted)

    async def _store_group(self, size_maximum: int) -> None:
        group = self._take_group(size_maximum)
        if not group:
            return
        owners = {submission.owner for submission in group}
        self._served |= owners
        try:
            await self._serve(group)
        finally:
            self._served -= owners
            self._unanswered -= sum(submission.size for submission in group)
            self._wanted.set()  # for submissions that came meanwhile, and for those of these owners

    def _take_group(self, size_maximum: int) -> list[_Submission[Item, Outcome]]:
        """Take a writer's share of all there is, so that one writer does not take everything while the others wait."""
        group: list[_Submission[Item, Outcome]] = []
        wanted = max(1, min(self._group_size_maximum, -(-self._unanswered // self._writers)))
        while wanted > 0 and (owners := self._next_owners(wanted, size_maximum)):
            for submission in map(self._take_next, owners):
                if submission.is_caller_gone():
                    self._unanswered -= submission.size
                    _settle(submission.answer, ClientLeft())
                else:
                    group.append(submission)
                    wanted -= submission.size
        return group

    def _take_next(self, owner: Hashable) -> _Submission[Item, Outcome]:
        own = self._waiting.pop(owner)
        submission = own.popleft()
        if own:
            self._waiting[owner] = own  # at the end of the queue
        return submission

    def _next_owners(self, wanted: int, size_maximum: int) -> list[Hashable]:
        """Return the owners whose turn it is, until the size of their next submissions is `wanted`."""
        owners, taken = list[Hashable](), 0
        for owner, own in self._waiting.items():
            if taken >= wanted:
                break
            if own[0].size <= size_maximum and owner not in self._served:
                owners.append(owner)
                taken += own[0].size
        return owners

    async def _serve(self, group: Sequence[_Submission[Item, Outcome]]) -> None:
        try:
            items = [item for submission in group for item in submission.items]
            outcomes = await store_or_halve(items, self._store, self._refuse)
        except Exception as error:  # noqa: BLE001 - every waiting request must learn of it
            await self._fail(group, error)
            return
        start = 0
        for submission in group:
            end = start + len(submission.items)
            _settle(submission.answer, outcomes[start:end])
            start = end

    async def _fail(self, group: Sequence[_Submission[Item, Outcome]], error: Exception) -> None:
        if len(group) > 1 and not is_outage(error):
            for submission in group:  # a bug that one of them meets must not cost the others
                await self._serve([submission])
        else:
            for submission in group:
                _settle(submission.answer, error)


async def store_or_halve(
    items: Sequence[Item],
    store: Callable[[Sequence[Item]], Awaitable[Sequence[Outcome]]],
    refuse: Callable[[Item, str], Awaitable[Outcome]],
) -> Sequence[Outcome]:
    """Store items together; if PostgreSQL refuses some of them, halve the group until they are alone."""
    try:
        return await store(items)
    except Refusal as error:
        reason = str(error)
    if len(items) == 1:
        return [await refuse(items[0], reason)]
    middle = len(items) // 2
    first = await store_or_halve(items[:middle], store, refuse)
    return [*first, *await store_or_halve(items[middle:], store, refuse)]


def _settle(answer: "asyncio.Future[Outcome]", outcome: Outcome | Exception) -> None:
    if answer.done():
        return
    if isinstance(outcome, Exception):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)
