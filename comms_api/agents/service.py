"""Enroll, show and delete agents."""

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from comms_api.agents import store
from comms_api.agents.model import Agent, AgentChange, AgentFilter
from comms_api.database.listener import Notifier
from comms_api.database.uuid7 import DatabaseClock
from comms_api.errors import Conflict, Invalid, NotFound
from comms_api.http.pages import Page, page_of
from comms_api.protocol import EnrolledAgent, Enrollment
from comms_api.tokens.keyring import Secret

REVOCATIONS_CHANNEL = "comms_api_revocations"
UUID_VERSION = 7
KEY_LENGTH_MAXIMUM = 128


class Agents:
    """The agents of the fleet."""

    def __init__(
        self, engine: AsyncEngine, secret: Secret, clock: DatabaseClock, notifier: Notifier, key_length: int
    ) -> None:
        """Take the least length of a key, in characters."""
        self._engine = engine
        self._secret = secret
        self._clock = clock
        self._notifier = notifier
        self._key_length = key_length

    async def enroll(self, enrollment: Enrollment) -> EnrolledAgent:
        """Add an agent under the id it chose, or one of ours; raises `Conflict` when id or name is taken."""
        self._check(enrollment)
        agent_id = enrollment.id or self._clock.uuid7()
        async with self._engine.begin() as connection:
            if not await store.insert_agent(connection, agent_id, enrollment, self._secret.hash_key(enrollment.key)):
                raise Conflict(f"An agent with the id {agent_id} or the name {enrollment.name!r} exists.", code=1708)
            missing = set(enrollment.groups) - await store.join_groups(connection, agent_id, enrollment.groups)
            if missing:
                raise NotFound(f"There is no group {min(missing)!r}; nothing was enrolled.")
        return EnrolledAgent(agent_id, enrollment.name)

    def _check(self, enrollment: Enrollment) -> None:
        if enrollment.id is not None and enrollment.id.version != UUID_VERSION:
            raise Invalid("id: must be a UUID of version 7")
        if not self._key_length <= len(enrollment.key) <= KEY_LENGTH_MAXIMUM:
            raise Invalid(f"key: must have {self._key_length} to {KEY_LENGTH_MAXIMUM} characters")
        if not (enrollment.key.isascii() and enrollment.key.isprintable()):
            raise Invalid("key: must be printable ASCII")
        texts = [enrollment.name, *(text for pair in enrollment.labels.items() for text in pair)]
        if any("\0" in text for text in texts):
            raise Invalid("name, labels: must not contain NUL")

    async def get(self, agent_id: UUID) -> Agent:
        """Return one agent; raises `NotFound`."""
        async with self._engine.connect() as connection:
            agent = await store.find_agent(connection, agent_id)
        if agent is None:
            raise NotFound(f"There is no agent {agent_id}.")
        return agent

    async def list(self, wanted: AgentFilter, after: UUID | None, limit: int) -> Page[Agent]:
        """Return one page of agents, by id."""
        async with self._engine.connect() as connection:
            agents = await store.list_agents(connection, wanted, after, limit + 1)
        return page_of(agents, limit, lambda agent: str(agent.id))

    async def change(self, agent_id: UUID, change: AgentChange) -> Agent:
        """Set an agent's labels, and return it; raises `NotFound`."""
        if any("\0" in text for pair in change.labels.items() for text in pair):
            raise Invalid("labels: must not contain NUL")
        async with self._engine.begin() as connection:
            if not await store.update_labels(connection, agent_id, change.labels):
                raise NotFound(f"There is no agent {agent_id}.")
        return await self.get(agent_id)

    async def delete(self, agent_id: UUID) -> None:
        """Remove an agent and end its tokens on every node; raises `NotFound`. Its events and orders stay."""
        async with self._engine.begin() as connection:
            if not await store.delete_agent(connection, agent_id):
                raise NotFound(f"There is no agent {agent_id}.")
            await store.revoke_tokens(connection, str(agent_id))
        self._notifier.notify(REVOCATIONS_CHANNEL)
