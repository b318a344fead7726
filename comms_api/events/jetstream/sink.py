"""Store events in a replicated stream: a batch is acknowledged when a quorum of its servers has stored it."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from uuid import UUID

import msgspec

from comms_api.batches.keys import key_of_part
from comms_api.database.coalescing import IS_CALLER_GONE
from comms_api.duties.repeating import Duty
from comms_api.errors import ClientLeft
from comms_api.events.contents import STEP_BYTES
from comms_api.events.jetstream.connection import ABSENCE_SECONDS, JetStream
from comms_api.events.jetstream.cutting import cut
from comms_api.events.jetstream.messages import content_bytes_maximum, encode_message
from comms_api.events.meters import SinkMeters
from comms_api.events.model import EventBatch, Quarantined
from comms_api.events.quarantine import Quarantine
from comms_api.fairness.metering import Metered
from comms_api.fairness.slices import Slices, Steps
from comms_api.settings import Settings
from comms_api.spans import span

MESSAGES_AT_ONCE = 64
"""The number of messages of a batch that are published together.

The other messages of a very large batch are published one by one, so they delay no other agent, and their CPU time is
charged to the agent.
"""

UNCERTAIN_BATCHES_MAXIMUM = 20_000


class JetStreamSink:
    """Publishes batches to the stream, from which relays copy them. Lines too long for a message are quarantined."""

    def __init__(self, quarantine: Quarantine, slices: Slices, settings: Settings) -> None:
        self._quarantine = quarantine
        self._slices = slices
        self._stream = JetStream(settings)
        self._uncertain = Uncertain()
        self.meters = SinkMeters(stream=self._stream.meter, find_backlog=self._stream.find_backlog)

    def duties(self) -> list[Duty]:
        """Return the duty that keeps the connection open."""
        return self._stream.duties()

    async def append(self, batch: EventBatch) -> bool:
        """Return when every message is acknowledged; raises `Unavailable` if one is not."""
        if not self._uncertain.is_empty:
            digest = await self._slices.run_metered(_digest(batch))
            batch = msgspec.structs.replace(batch, id=self._uncertain.take(digest) or batch.id)
        try:
            await self._stream.wait_until_ready(ABSENCE_SECONDS)
            longest = content_bytes_maximum(self._stream.message_bytes_maximum)
            parts, giants = [batch], list[bytes]()
            if len(batch.content) > longest:
                parts, giants = await self._slices.run_metered(cut(batch, longest))
            with span("commit"):
                await self._publish(batch.agent_id, [_with_key(part, batch) for part in parts])
        except Exception:
            self._stream.meter.failed_batches += 1
            self._uncertain.add(await self._slices.run_metered(_digest(batch)), batch.id)
            raise
        if giants:
            reason = f"larger than a message of the event stream may be ({longest} bytes, compressed)"
            key = batch.key and key_of_part(batch.key, "long lines")
            await self._quarantine.add(batch.agent_id, [Quarantined(reason, line) for line in giants], key=key)
        return True

    async def _publish(self, agent_id: UUID, parts: Sequence[EventBatch]) -> None:
        is_caller_gone = IS_CALLER_GONE.get()
        together = [Metered(self._stream.publish(encode_message(part)), "publish") for part in parts[:MESSAGES_AT_ONCE]]
        outcomes = await asyncio.gather(*together, return_exceptions=True)
        self._slices.charge(str(agent_id), sum(publishing.seconds for publishing in together))
        for outcome in outcomes:
            if outcome is not None:
                raise outcome
        for part in parts[MESSAGES_AT_ONCE:]:
            if is_caller_gone():
                raise ClientLeft
            await self._stream.publish(encode_message(part))


def _with_key(part: EventBatch, batch: EventBatch) -> EventBatch:
    """Give a part of a batch the key under which a relay stores it once."""
    if batch.key is None:
        return part
    return msgspec.structs.replace(part, key=key_of_part(batch.key, f"{part.id.int - batch.id.int} {part.events}"))


class Uncertain:
    """Remembers the batches that were refused, but may have been stored.

    If such a batch is sent again, its events get the same ids, so that none is stored twice.
    """

    def __init__(self) -> None:
        self._first_ids: OrderedDict[bytes, UUID] = OrderedDict()

    @property
    def is_empty(self) -> bool:
        """Return whether no batch is remembered."""
        return not self._first_ids

    def take(self, digest: bytes) -> UUID | None:
        """Return the first id of the batch with this digest, and forget the batch."""
        return self._first_ids.pop(digest, None)

    def add(self, digest: bytes, first_id: UUID) -> None:
        """Remember a batch, and forget the oldest one if there are too many."""
        self._first_ids[digest] = first_id
        if len(self._first_ids) > UNCERTAIN_BATCHES_MAXIMUM:
            self._first_ids.popitem(last=False)


def _digest(batch: EventBatch) -> Steps[bytes]:
    digest = blake2b(batch.agent_id.bytes, digest_size=16)
    for start in range(0, len(batch.content), STEP_BYTES):
        digest.update(memoryview(batch.content)[start : start + STEP_BYTES])
        yield None
    return digest.digest()
