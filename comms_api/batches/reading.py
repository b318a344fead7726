"""Read the batches of agents, within each agent's share of CPU time."""

import re
from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

import msgspec

from comms_api.batches.framing import count_lines, metadata_line, read_owner
from comms_api.batches.keys import BatchKey, Kind, hash_key
from comms_api.errors import Forbidden, Malformed
from comms_api.fairness.budgets import CpuBudget
from comms_api.fairness.slices import Slices, Steps
from comms_api.http.authentication import agent_of
from comms_api.http.bodies import Bodies
from comms_api.http.request import AnyRequest, find_header, meter_of
from comms_api.protocol import IDEMPOTENCY_KEY, IDEMPOTENCY_KEY_LENGTH_MAXIMUM

Batch = TypeVar("Batch")

_KEY_HEADER = IDEMPOTENCY_KEY.lower().encode()
_KEY = re.compile(f"[!-~]{{1,{IDEMPOTENCY_KEY_LENGTH_MAXIMUM}}}")


class BatchReader(msgspec.Struct, frozen=True):
    """The dependencies of routes that read batches; `note_metadata` takes each batch's agent and first line."""

    bodies: Bodies
    cpu: CpuBudget
    slices: Slices
    items_maximum: int
    note_metadata: Callable[[UUID, bytes], None]

    async def read(self, request: AnyRequest, body: bytes, steps: Steps[Batch]) -> Batch:
        """Run the steps that read a received body; raises `Forbidden` for a batch of another agent."""
        agent_id = agent_of(request)
        async with self.cpu.turn(str(agent_id), meter_of(request.scope).take_seconds):
            metadata = metadata_line(body)
            if read_owner(metadata).lower() != str(agent_id):
                raise Forbidden("line 1: agent.id is not the agent of the token; nothing was stored")
            self.note_metadata(agent_id, metadata)
            lines = await self.slices.run_metered(count_lines(body, self.items_maximum))
            await self.bodies.hold_lines(request, lines)
            return await self.slices.run_metered(steps)

    async def read_key(self, request: AnyRequest, kind: Kind, body: bytes) -> BatchKey | None:
        """Return the idempotency key of a batch with a received body, or None; raises `Malformed`."""
        key = find_header(request.scope, _KEY_HEADER)
        if key is None:
            return None
        if not _KEY.fullmatch(key):
            length = IDEMPOTENCY_KEY_LENGTH_MAXIMUM
            raise Malformed(f"{IDEMPOTENCY_KEY}: expected 1 to {length} visible ASCII characters; nothing was stored")
        agent_id = agent_of(request)
        async with self.cpu.turn(str(agent_id), meter_of(request.scope).take_seconds):
            return await self.slices.run_metered(hash_key(agent_id, kind, key, body))
