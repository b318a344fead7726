"""Store events in a replicated stream: a batch is answered when a quorum of its servers has it."""

import asyncio
from collections import OrderedDict
from collections.abc import Coroutine, Sequence
from hashlib import blake2b
from typing import Any
from uuid import UUID

from comms_api.events.jetstream.connection import ABSENCE_SECONDS, JetStream
from comms_api.events.jetstream.messages import encode_messages, line_bytes_maximum
from comms_api.events.model import EventRun, Quarantined
from comms_api.events.quarantine import Quarantine
from comms_api.settings import Settings

UNCERTAIN_BATCHES_MAXIMUM = 20_000


class JetStreamSink:
    """The stream of events; a relay brings them to PostgreSQL or elsewhere. Lines too long for it are quarantined."""

    def __init__(self, quarantine: Quarantine, settings: Settings) -> None:
        self._quarantine = quarantine
        self._stream = JetStream(settings)
        self._uncertain = Uncertain()

    def tasks(self) -> dict[str, Coroutine[Any, Any, None]]:
        """Return what keeps the connection."""
        return {"event stream": self._stream.run()}

    async def append(self, first_id: UUID, agent_id: UUID, runs: Sequence[EventRun]) -> None:
        """Return after the acknowledgement of every message; raises `Unavailable` when one is missing."""
        first_id = self._uncertain.take(agent_id, runs) or first_id
        try:
            await self._stream.wait_until_ready(ABSENCE_SECONDS)
            longest = line_bytes_maximum(self._stream.message_bytes_maximum)
            fitting = [
                EventRun(run.module, run.collector, [line for line in run.lines if len(line) <= longest])
                for run in runs
            ]
            await self._publish(first_id, agent_id, fitting)
        except BaseException:
            self._uncertain.add(agent_id, runs, first_id)
            raise
        if giants := [line for run in runs for line in run.lines if len(line) > longest]:
            reason = f"larger than a message of the event stream may be ({longest} bytes)"
            await self._quarantine.add(agent_id, [Quarantined(reason, line) for line in giants])

    async def _publish(self, first_id: UUID, agent_id: UUID, runs: Sequence[EventRun]) -> None:
        messages = encode_messages(first_id, agent_id, runs, self._stream.message_bytes_maximum)
        outcomes = await asyncio.gather(*map(self._stream.publish, messages), return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome


class Uncertain:
    """Remembers the batches that were refused, but may have been stored.

    If such a batch is sent again, its events get the same ids, so that none is stored twice.
    """

    def __init__(self) -> None:
        self._first_ids: OrderedDict[bytes, UUID] = OrderedDict()

    def take(self, agent_id: UUID, runs: Sequence[EventRun]) -> UUID | None:
        """Return the first id that this batch had, and forget it."""
        return self._first_ids.pop(_digest(agent_id, runs), None) if self._first_ids else None

    def add(self, agent_id: UUID, runs: Sequence[EventRun], first_id: UUID) -> None:
        """Remember a batch; the one that failed longest ago makes room."""
        self._first_ids[_digest(agent_id, runs)] = first_id
        if len(self._first_ids) > UNCERTAIN_BATCHES_MAXIMUM:
            self._first_ids.popitem(last=False)


def _digest(agent_id: UUID, runs: Sequence[EventRun]) -> bytes:
    digest = blake2b(agent_id.bytes, digest_size=16)
    for run in runs:
        digest.update(repr((run.module, run.collector, len(run.lines))).encode())
        digest.update(b"\n".join(run.lines))
    return digest.digest()
