"""Keep one copy of each content that is being sent, for any number of clients."""

import asyncio
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import msgspec

from comms_api.fairness.budgets import ByteBudget
from comms_api.files.model import Content

RECENT_MAXIMUM = 64
RECENT_BYTES_MAXIMUM = 16 * 2**20
"""The number of contents, and their total size, to keep for the next client."""


class Source(msgspec.Struct, frozen=True):
    """A content that can be loaded; equal keys mean equal contents."""

    key: str
    size: int
    """About the content's size in bytes."""

    load: Callable[[], Awaitable[Content]]
    sha256: str | None = None
    """The content's hash, if it is known before the content is loaded."""


class SharedContents:
    """Contents by their keys. A copy counts in a budget until the last answer that holds it has been sent."""

    def __init__(self) -> None:
        self._copies: weakref.WeakValueDictionary[str, Content] = weakref.WeakValueDictionary()
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._recent: OrderedDict[str, Content] = OrderedDict()

    async def get(self, source: Source, budget: ByteBudget) -> Content:
        """Return the shared copy, or load it; raises `Unavailable` when the budget has no room in time."""
        content = self._copies.get(source.key)
        if content is None:
            lock = self._locks.setdefault(source.key, asyncio.Lock())
            async with lock:
                content = self._copies.get(source.key) or await self._load(source, budget)
        self._mark_recent(source.key, content)
        return content

    async def _load(self, source: Source, budget: ByteBudget) -> Content:
        await budget.acquire(self, source.size)
        try:
            content = await source.load()
        except BaseException:
            budget.release(self, source.size)
            raise
        weakref.finalize(content, budget.release, self, source.size).atexit = False
        self._copies[source.key] = content
        return content

    def _mark_recent(self, key: str, content: Content) -> None:
        self._recent[key] = content
        self._recent.move_to_end(key)
        size = sum(len(recent.content) for recent in self._recent.values())
        while size > RECENT_BYTES_MAXIMUM or len(self._recent) > RECENT_MAXIMUM:
            _, oldest = self._recent.popitem(last=False)
            size -= len(oldest.content)
