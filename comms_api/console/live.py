"""Share the live parts of pages between viewers with the same role: fifty of them cost hardly more than one."""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from functools import wraps
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

PAUSE = 100
"""A part stays fresh for this many times the time that it took, if that is longer: it costs at most 1 % of a core."""

PARTS_MAXIMUM = 64


class Key(NamedTuple):
    """The role of a part's viewers, and its URL."""

    role: str
    path: str
    query: str


class Part(msgspec.Struct):
    """A part that is being made or was made, when that began, and until when polls may get it."""

    task: asyncio.Task[Response[bytes]]
    began_at: float
    fresh_until: float = math.inf

    @property
    def is_fresh(self) -> bool:
        """Whether polls may still get it."""
        has_failed = self.task.done() and (self.task.cancelled() or self.task.exception() is not None)
        return not has_failed and time.monotonic() <= self.fresh_until

    def finish(self, _task: asyncio.Task[Response[bytes]]) -> None:
        """Note that the part is made."""
        self.fresh_until = self.began_at + max(FRESH_SECONDS, PAUSE * (time.monotonic() - self.began_at))


class LiveParts:
    """The newest live parts of the pages that somebody looks at."""

    def __init__(self) -> None:
        self._parts: OrderedDict[Key, Part] = OrderedDict()

    async def get(self, key: Key, make: Callable[[], Answer], *, is_poll: bool) -> Response[bytes]:
        """Return a part for a poll, or a new one; later polls get the new one as well."""
        part = self._parts.get(key)
        if part is None or not is_poll or not part.is_fresh:
            part = Part(asyncio.create_task(make()), time.monotonic())
            part.task.add_done_callback(part.finish)
            self._parts[key] = part
            self._parts.move_to_end(key)
            if len(self._parts) > PARTS_MAXIMUM:
                self._parts.popitem(last=False)
        return await asyncio.shield(part.task)  # others wait for it even if this viewer leaves


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
