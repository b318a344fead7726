"""Enroll, show, change and delete agents."""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from uuid import UUID

import msgspec

from comms_api.addresses import read_network
from comms_api.agents import deletion, enrollment_tokens, store
from comms_api.agents.configuration_changes import note_moved
from comms_api.agents.counts import count_agents
from comms_api.agents.keys import LOGIN_FAILURES, KeyRules, made_key, replace_key
from comms_api.agents.model import (
    Agent,
    AgentChange,
    AgentCounts,
    AgentFilter,
    AgentKey,
    EnrollmentToken,
    MadeEnrollmentToken,
    NewEnrollmentToken,
    Visibility,
)
from comms_api.agents.naming import find_ids, get_ids, read_id
from comms_api.agents.replacement import ReplacementRule
from comms_api.agents.store import NewAgent
from comms_api.database.actor import Actor, acting_as
from comms_api.database.connection import Connection, Engine
from comms_api.database.housekeeping import HOUSEKEEPING_SECONDS
from comms_api.database.pages import Page, page_of
from comms_api.database.uuid7 import DatabaseClock
from comms_api.duties.repeating import Duty
from comms_api.errors import Conflict, Invalid, NotFound, Unauthenticated, Unavailable
from comms_api.fairness.queue import Queue
from comms_api.lockouts.store import clear_everywhere
from comms_api.protocol import AGENT_ID_VERSIONS, EnrolledAgent, Enrollment
from comms_api.revocations.service import Revocations
from comms_api.revocations.store import revoke_tokens
from comms_api.settings import Settings
from comms_api.text.limited_log import LimitedLog
from comms_api.text.printable import is_name
from comms_api.tokens.secret import Secret

logger = logging.getLogger(__name__)

COUNTED_SHOWN = 8
"""The maximum number of versions and of groups to count."""

ENROLLMENTS_SHARE = 2
"""Enrollments by token use 1/ENROLLMENTS_SHARE of the connections to the database."""


class Agents:
    """The agents of the fleet."""

    def __init__(
        self, engine: Engine, secret: Secret, clock: DatabaseClock, revocations: Revocations, settings: Settings
    ) -> None:
        self._engine = engine
        self._secret = secret
        self._clock = clock
        self._revocations = revocations
        self._rules = KeyRules.of(settings)
        self._replacement_rule = ReplacementRule.of(settings)
        self.enrollments = Queue(
            "enrollments",
            settings.database_pool_size // ENROLLMENTS_SHARE,
            settings.enrollments_waiting_maximum,
            settings.database_timeout_seconds,
        )
        """The turns of enrollments by token, which strangers may request as well."""

        self._enrolled = LimitedLog(logger, logging.INFO)
        self._refusals = LimitedLog(logger, logging.WARNING)

    def duties(self) -> Sequence[Duty]:
        """Return the duty that deletes the states of deleted agents that are left."""
        delete = partial(deletion.delete_states_left, self._engine)
        return [Duty("states of deleted agents", delete, HOUSEKEEPING_SECONDS)]

    async def resolve(self, text: str) -> UUID:
        """Return the id of the agent with this id or name; raises `NotFound` for an unknown name."""
        if (agent_id := read_id(text)) is not None:
            return agent_id
        async with self._engine.connect() as connection:
            return (await get_ids(connection, [text]))[0]

    async def target_names(self, text: str) -> list[str]:
        """Return the text, and the id of the agent with that name if it exists."""
        if read_id(text) is not None:
            return [text.lower()]
        async with self._engine.connect() as connection:
            return [text, *map(str, (await find_ids(connection, [text])).values())]

    async def enroll(self, enrollment: Enrollment, address: str | None) -> EnrolledAgent:
        """Add an agent under the id that it chose, or under a new one.

        Enrolling the same agent with the same key again changes nothing. Raises `Conflict` when another agent has the
        id or the name, unless the settings let it be replaced. Without a key, the server makes one and returns it.
        """
        with self._logging_refusal(enrollment, address):
            self._check(enrollment)
            async with self._engine.begin() as connection:
                enrolled, replaced = await self._enroll(connection, enrollment)
        return await self._finish(enrolled, replaced, address)

    def _logging_refusal(self, enrollment: Enrollment, address: str | None) -> AbstractContextManager[None]:
        return self._refusals.refusals(f"enrollment of agent {enrollment.name} ({enrollment.id})", address)

    async def _finish(self, enrolled: EnrolledAgent, replaced: Sequence[str], address: str | None) -> EnrolledAgent:
        """Finish an enrollment after its commit."""
        await self._revocations.revoke_again(*replaced)
        self._enrolled.write(f"agent {enrolled.name} ({enrolled.id}) enrolled from {address}")
        return enrolled

    async def check_token(self, token: str, address: str | None) -> None:
        """Raise `Unauthenticated` for an unknown or expired token, before the body of the request is read."""
        with self._refusals.refusals("enrollment by a token", address):
            async with self._engine.connect() as connection:
                if not await enrollment_tokens.is_known(connection, token):
                    raise Unauthenticated("The enrollment token is unknown, used up or expired.")

    async def enroll_by_token(self, token: str, enrollment: Enrollment, address: str | None) -> EnrolledAgent:
        """Add an agent to the groups of an enrollment token; raises `Unauthenticated` when it is not valid."""
        with self._logging_refusal(enrollment, address):
            self._check(enrollment)
            with acting_as(Actor("an enrollment token", address)):
                async with self._engine.begin() as connection:
                    enrolled, replaced = await self._enroll_by_token(connection, token, enrollment)
        return await self._finish(enrolled, replaced, address)

    async def _enroll_by_token(
        self, connection: Connection, token: str, enrollment: Enrollment
    ) -> tuple[EnrolledAgent, Sequence[str]]:
        # A client that lost the answer may repeat the request; both count as one use of the token.
        if enrollment.id is not None and await self._is_same(connection, enrollment.id, enrollment):
            return EnrolledAgent(enrollment.id, enrollment.name), ()
        used = await enrollment_tokens.use_token(connection, token)
        if used is None:
            raise Unauthenticated("The enrollment token is unknown, used up or expired.")
        enrollment = msgspec.structs.replace(enrollment, groups=tuple(used.groups))
        enrolled, replaced = await self._enroll(connection, enrollment)
        if used.groups:  # the agent does not know them yet
            await note_moved(connection, [enrolled.id])
        return enrolled, replaced

    async def _enroll(self, connection: Connection, enrollment: Enrollment) -> tuple[EnrolledAgent, Sequence[str]]:
        """Return the enrolled agent, and the ids of the agents that it replaces."""
        replaced: Sequence[str] = ()
        agent_id, key = enrollment.id or self._clock.uuid7(), enrollment.key or made_key()
        new_agent = NewAgent(agent_id, self._secret.hash_key(key))
        if not await store.insert_agent(connection, new_agent, enrollment):
            if await self._is_same(connection, agent_id, enrollment):
                return EnrolledAgent(agent_id, enrollment.name), ()
            if await deletion.has_states_left(connection, agent_id):
                raise Unavailable(f"The states of a deleted agent {agent_id} are being deleted; enroll again later.")
            name = enrollment.name
            replaced = await self._replacement_rule.delete_holders(connection, agent_id, name, is_authorised=True)
            if not await store.insert_agent(connection, new_agent, enrollment):
                raise Conflict(f"Another agent has just taken the id {agent_id} or the name {name!r}.", code=1708)
        missing = set(enrollment.groups) - await store.join_groups(connection, agent_id, enrollment.groups)
        if missing:
            raise NotFound(f"There is no group {min(missing)!r}; nothing was enrolled.")
        return EnrolledAgent(agent_id, enrollment.name, None if enrollment.key else key), replaced

    async def _is_same(self, connection: Connection, agent_id: UUID, enrollment: Enrollment) -> bool:
        if enrollment.key is None:
            return False
        agent = await store.find_agent(connection, agent_id)
        admission = await store.find_admission(connection, agent_id)
        if agent is None or admission is None or agent.name != enrollment.name:
            return False
        return not self._secret.is_slow(admission.key_hash) and self._secret.key_matches(
            enrollment.key, admission.key_hash
        )

    def _check(self, enrollment: Enrollment) -> None:
        if enrollment.id is not None and enrollment.id.version not in AGENT_ID_VERSIONS:
            raise Invalid("id: must be a UUID of version 4 or 7")
        if enrollment.key is not None:
            self._rules.check(enrollment.key)
        if enrollment.type == store.EXTERNAL_TYPE:
            raise Invalid(f"type: {store.EXTERNAL_TYPE!r} is for agents that come from an external database")
        if not is_name(enrollment.name):
            raise Invalid("name: must not be . or .., and must not contain control characters")

    async def get(self, agent_id: UUID) -> Agent:
        """Return one agent; raises `NotFound`."""
        async with self._engine.connect() as connection:
            agent = await store.find_agent(connection, agent_id)
        if agent is None:
            raise NotFound(f"There is no agent {agent_id}.")
        return agent

    async def list(
        self, agent_filter: AgentFilter, visibility: Visibility, after: UUID | None, limit: int
    ) -> Page[Agent]:
        """Return one page of agents, by id."""
        async with self._engine.connect() as connection:
            return await store.list_agents(connection, agent_filter, visibility, after, limit)

    async def count(self) -> AgentCounts:
        """Return the number of agents by status, version, group and node; this reads every agent."""
        async with self._engine.connect() as connection:
            return await count_agents(connection, COUNTED_SHOWN)

    async def change(self, agent_id: UUID, change: AgentChange) -> Agent:
        """Set an agent's labels, source addresses or block, and return it; raises `NotFound`.

        A block or other addresses revoke its tokens on every node; lifting a block clears its failed logins.
        """
        values = _values(change)
        async with self._engine.begin() as connection:
            if not await store.update_agent(connection, agent_id, values):
                raise NotFound(f"There is no agent {agent_id}.")
            if change.is_blocked or change.allowed_addresses is not None:
                await revoke_tokens(connection, str(agent_id))
            if change.is_blocked is False:
                await clear_everywhere(connection, LOGIN_FAILURES, str(agent_id))
        if change.is_blocked or change.allowed_addresses is not None:
            await self._revocations.revoke_again(str(agent_id))
        return await self.get(agent_id)

    async def set_key(self, agent_id: UUID, key: str | None) -> AgentKey:
        """Give an agent a new key and revoke its old key, its next key and its tokens; raises `NotFound`.

        From then on an external database, which may still have the old key, can no longer change the agent's key.
        """
        chosen = key or made_key()
        self._rules.check(chosen)
        changes = {"key_hash": self._secret.hash_key(chosen), "type": store.OWN_TYPE}
        async with self._engine.begin() as connection:
            if await replace_key(connection, agent_id, changes) is None:
                raise NotFound(f"There is no agent {agent_id}.")
            await clear_everywhere(connection, LOGIN_FAILURES, str(agent_id))
        await self._revocations.revoke_again(str(agent_id))
        return AgentKey(agent_id, chosen)

    async def delete(self, agent_id: UUID) -> None:
        """Delete an agent and its states, let its open orders expire, and revoke its tokens on every node.

        Its events and ended orders stay. If the node dies in between, a duty deletes the states that are left. Raises
        `NotFound`.
        """
        async with self._engine.begin() as connection:
            if not await deletion.delete_agent(connection, agent_id):
                raise NotFound(f"There is no agent {agent_id}.")
        await self._revocations.revoke_again(str(agent_id))
        await deletion.delete_states(self._engine, agent_id)

    async def make_token(self, token: NewEnrollmentToken, user: str) -> MadeEnrollmentToken:
        """Create an enrollment token; raises `NotFound` for an unknown group."""
        token_id = self._clock.uuid7()
        async with self._engine.begin() as connection:
            missing = set(token.groups) - await store.find_groups(connection, token.groups)
            if missing:
                raise NotFound(f"There is no group {min(missing)!r}.")
            return MadeEnrollmentToken(
                token_id, await enrollment_tokens.insert_token(connection, token_id, token, user)
            )

    async def list_tokens(self, after: UUID | None, limit: int) -> Page[EnrollmentToken]:
        """Return one page of enrollment tokens, oldest first."""
        async with self._engine.connect() as connection:
            tokens = await enrollment_tokens.list_tokens(connection, after, limit + 1)
        return page_of(tokens, limit, lambda token: str(token.id))

    async def revoke_token(self, token_id: UUID) -> None:
        """Revoke an enrollment token; raises `NotFound`."""
        async with self._engine.begin() as connection:
            if not await enrollment_tokens.delete_token(connection, token_id):
                raise NotFound(f"There is no enrollment token {token_id}.")


def _values(change: AgentChange) -> dict[str, object]:
    members = {name: getattr(change, name) for name in change.__struct_fields__}
    values = {name: value for name, value in members.items() if value is not None}
    if not values:
        raise Invalid("Set at least one of labels, allowed_addresses and is_blocked.")
    if change.allowed_addresses is not None:
        values["allowed_addresses"] = normal_networks(change.allowed_addresses)
    return values


def normal_networks(texts: Sequence[str]) -> list[str]:
    """Return source addresses as CIDR; `any` alone allows every address. Raises `Invalid` for other texts."""
    if [text.lower() for text in texts] == ["any"]:
        return []
    try:
        return [str(read_network(text)) for text in texts]
    except ValueError as error:
        raise Invalid(f"allowed_addresses: {error}") from None
