"""Share the live parts of pages between viewers with the same role: fifty of them cost hardly more than one."""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from functools import partial, wraps
from typing import Any, NamedTuple, ParamSpec, TypeAlias

import msgspec
from litestar import Request, Response

from comms_api.console.rendering import is_partial
from comms_api.console.sessions import POLL_HEADER
from comms_api.http.authentication import claims_of
from comms_api.http.request import find_header

P = ParamSpec("P")
Answer: TypeAlias = Coroutine[Any, Any, Response[bytes]]

LIVE_PARTS = "live_parts"
"""The key of the live parts in the state of the console's app."""

FRESH_SECONDS = 2.5
"""A poll gets a part that is at most this old: half the usual time between two polls of a page."""

SHARE = 0.02
"""The parts that somebody polls are made in at most this share of the time together, and in equal shares."""

LONGEST_FRESH_SECONDS = 60.0
POLLED_SECONDS = 60.0
"""A part that nobody has polled for so long has no share."""

PARTS_MAXIMUM = 64


class Key(NamedTuple):
    """The role of a part's viewers, and its URL."""

    role: str
    path: str
    query: str


class Part(msgspec.Struct):
    """A part that is being made or was made, and the monotonic times of its life."""

    task: asyncio.Task[Response[bytes]]
    began_at: float
    asked_at: float = -math.inf
    fresh_until: float = math.inf
    """Polls get the part until then."""

    def is_fresh(self, now: float) -> bool:
        """Whether polls may still get it."""
        has_failed = self.task.done() and (self.task.cancelled() or self.task.exception() is not None)
        return not has_failed and now <= self.fresh_until


class LiveParts:
    """The newest live parts of the pages that somebody looks at."""

    def __init__(self) -> None:
        self._parts: OrderedDict[Key, Part] = OrderedDict()
        """The part that was asked for last is the last one."""

    def __len__(self) -> int:
        """Return how many parts somebody polls."""
        return len(self._parts)

    async def get(self, key: Key, make: Callable[[], Answer], *, is_poll: bool) -> Response[bytes]:
        """Return a part for a poll, or a new one; later polls get the new one as well."""
        now = time.monotonic()
        part = self._parts.get(key)
        if part is None or not is_poll or not part.is_fresh(now):
            part = Part(asyncio.create_task(make()), now)
            part.task.add_done_callback(partial(self._finish, part))
            self._parts[key] = part
        part.asked_at = now
        self._parts.move_to_end(key)
        self._drop_unasked(now)
        return await asyncio.shield(part.task)  # others wait for it even if this viewer leaves

    def _finish(self, part: Part, _task: asyncio.Task[Response[bytes]]) -> None:
        part.fresh_until = part.began_at + fresh_seconds(time.monotonic() - part.began_at, len(self._parts))

    def _drop_unasked(self, now: float) -> None:
        while len(self._parts) > PARTS_MAXIMUM or next(iter(self._parts.values())).asked_at < now - POLLED_SECONDS:
            self._parts.popitem(last=False)


def fresh_seconds(making_seconds: float, parts: int) -> float:
    """Return how long a part stays fresh that took `making_seconds`, if somebody polls this number of parts."""
    return min(max(FRESH_SECONDS, making_seconds * parts / SHARE), LONGEST_FRESH_SECONDS)


def live(show: Callable[P, Answer]) -> Callable[P, Answer]:
    """Share the live part of a page, which may depend on the viewer's role but not on the user."""

    @wraps(show)
    async def show_shared(*args: P.args, **kwargs: P.kwargs) -> Response[bytes]:
        request = kwargs["request"]
        if not (isinstance(request, Request) and is_partial(request)):
            return await show(*args, **kwargs)
        parts: LiveParts = request.app.state[LIVE_PARTS]
        key = Key(claims_of(request).role, request.url.path, request.url.query)
        is_poll = find_header(request.scope, POLL_HEADER) is not None
        return await parts.get(key, lambda: show(*args, **kwargs), is_poll=is_poll)

    return show_shared
