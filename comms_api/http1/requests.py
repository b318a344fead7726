"""Count the requests of a process."""

import asyncio


class RequestCount:
    """The number of requests so far, and whether any is in progress."""

    def __init__(self) -> None:
        self.total = 0
        self._in_progress = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def begin(self) -> None:
        """Count a request."""
        self.total += 1
        self._in_progress += 1
        self._idle.clear()

    def end(self) -> None:
        """Note the end of a request."""
        self._in_progress -= 1
        if self._in_progress == 0:
            self._idle.set()

    async def wait_until_idle(self) -> None:
        """Return once no request is in progress."""
        await self._idle.wait()
