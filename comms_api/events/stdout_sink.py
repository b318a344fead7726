"""Write events as lines of JSON, as the management API shows them, for other tools to read."""

import asyncio
import os
from itertools import chain
from select import PIPE_BUF, select

import msgspec

from comms_api.duties.repeating import Duty
from comms_api.errors import CommsError
from comms_api.events.contents import decompress, find_events
from comms_api.events.meters import SinkMeters
from comms_api.events.model import EventBatch
from comms_api.fairness.slices import Slices

WAIT_SECONDS = 0.5
"""A thread waits this long for the reader before it checks again, so it may outlast its caller by this time."""


class StdoutSink:
    """A file descriptor, by default standard output, written without a buffer of this process."""

    def __init__(self, descriptor: int = 1) -> None:
        self._descriptor = descriptor
        self._turn = asyncio.Lock()
        self._slices = Slices()
        self.meters = SinkMeters()

    async def append(self, batch: EventBatch) -> bool:
        """Write one line for each event; raises `CommsError` if the reader has closed the pipe."""
        async with self._turn:
            body = await self._slices.run(decompress(batch.content))
            try:
                for event in chain.from_iterable(find_events(batch, body)):
                    await self._write(memoryview(msgspec.json.encode(event) + b"\n"))
            except OSError as error:
                raise CommsError(f"standard output: {error}") from None
        return True

    async def _write(self, data: memoryview) -> None:
        """Write up to `PIPE_BUF` bytes at a time, as fast as the reader reads.

        A writable pipe accepts that many at once, so no write blocks. A line up to that size stays whole if the caller
        is cancelled.
        """
        while data:
            if select([], [self._descriptor], [], 0)[1]:
                data = data[os.write(self._descriptor, data[:PIPE_BUF]) :]
            else:
                # The relay is a separate program that serves no requests, and only one call runs at a time.
                await asyncio.to_thread(select, [], [self._descriptor], [], WAIT_SECONDS)

    def duties(self) -> list[Duty]:
        """Return no duties."""
        return []
