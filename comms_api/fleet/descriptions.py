"""Keep the stored type, version and host of agents up to date with their descriptions of themselves.

Agents describe themselves in the first line of each batch and in the User-Agent of each login. A node remembers a hash
of each agent's last line, so a repeated description costs one look-up and no statement. A new one waits in a bounded
queue. A duty compares waiting descriptions with the stored ones, and stores the changes.
"""

import time
from collections.abc import Callable, Sequence
from uuid import UUID

import msgspec

from comms_api.database.connection import Connection, Engine
from comms_api.duties.repeating import Duty
from comms_api.fleet import description_store as store
from comms_api.fleet.description import Description, read_metadata, read_user_agent

FLUSH_SECONDS = 1.0
WAITING_MAXIMUM = 5_000
STEP = 1_000
"""The maximum number of descriptions that one transaction compares and stores."""

REMEMBERED_MAXIMUM = 50_000
RECHECK_SECONDS = 600.0
"""A repeated description is compared again after this time, since another node may have stored a different one."""

QUIET_SECONDS_MAXIMUM = 600.0
"""An agent whose description keeps changing is stored after pauses that double up to this.

They begin again after `RECHECK_SECONDS` without a change.
"""


class _Known(msgspec.Struct, gc=False):
    """The last description that was compared; `quiet_until` is when the agent's next change may be stored."""

    line_hash: int
    recheck_at: float
    quiet_until: float = 0.0
    changes: int = 0


class Descriptions:
    """The descriptions that this node has received and not stored yet."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._known: dict[UUID, _Known] = {}
        self._waiting: dict[UUID, tuple[int, Description]] = {}

    def note_batch(self, agent_id: UUID, line: bytes) -> None:
        """Note the metadata line of a batch. If the queue is full, the line is ignored; the next batch repeats it."""
        line_hash, known = hash(line), self._known.get(agent_id)
        if known is not None:
            now = self._clock()
            if now < known.quiet_until or (known.line_hash == line_hash and now < known.recheck_at):
                return
        description = read_metadata(line)
        if description is not None:
            self._add(agent_id, line_hash, description)

    def note_login(self, agent_id: UUID, user_agent: str) -> None:
        """Note the User-Agent of a login; the batches of a real agent say the same and more."""
        known = self._known.get(agent_id)
        if agent_id in self._waiting or (known is not None and self._clock() < known.quiet_until):
            return
        description = read_user_agent(user_agent)
        if description is not None:
            self._add(agent_id, 0, description)

    def _add(self, agent_id: UUID, line_hash: int, description: Description) -> None:
        if agent_id in self._waiting or len(self._waiting) < WAITING_MAXIMUM:
            self._waiting[agent_id] = line_hash, description

    @property
    def waiting(self) -> int:
        """The number of descriptions that wait to be compared."""
        return len(self._waiting)

    def duties(self) -> Sequence[Duty]:
        """Return the duty that stores the waiting descriptions."""
        return [Duty("descriptions", self.flush, FLUSH_SECONDS, finish=self.flush)]

    async def flush(self) -> None:
        """Compare the waiting descriptions with the stored ones, and store the changed ones."""
        while self._waiting:
            batch = dict(list(self._waiting.items())[:STEP])
            async with self._engine.begin() as connection:
                descriptions = {agent_id: description for agent_id, (_, description) in batch.items()}
                changed = await _store(connection, descriptions)
            for agent_id, (line_hash, description) in batch.items():
                if self._waiting.get(agent_id) == (line_hash, description):
                    del self._waiting[agent_id]
                self._remember(agent_id, line_hash, has_changed=agent_id in changed)

    def _remember(self, agent_id: UUID, line_hash: int, *, has_changed: bool) -> None:
        now, before = self._clock(), self._known.pop(agent_id, None)
        known = _Known(line_hash or (before.line_hash if before else 0), now + RECHECK_SECONDS)
        if before is not None and now < before.quiet_until + RECHECK_SECONDS:
            known.changes, known.quiet_until = before.changes, before.quiet_until
        if has_changed:
            known.changes = min(known.changes + 1, 16)
            known.quiet_until = now + min(2.0**known.changes, QUIET_SECONDS_MAXIMUM)
        self._known[agent_id] = known  # at the end: the first one has been silent for longest
        if len(self._known) > REMEMBERED_MAXIMUM:
            del self._known[next(iter(self._known))]


async def _store(connection: Connection, descriptions: dict[UUID, Description]) -> set[UUID]:
    """Store the descriptions that differ from the stored ones; return their agents."""
    stored = await store.find_descriptions(connection, sorted(descriptions))
    changes = [
        store.Change(agent_id, before, after)
        for agent_id, before in stored.items()
        if (after := descriptions[agent_id].applied_to(before)) != before
    ]
    if changes:
        await store.change_descriptions(connection, changes)
    return {change.agent_id for change in changes if change.is_visible}
