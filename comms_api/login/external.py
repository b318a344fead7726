"""Look up agents in an external database when the agent or its key is unknown here."""

import logging
import shlex
from collections.abc import Sequence
from uuid import UUID

from comms_api.addresses import network_of
from comms_api.agents import store
from comms_api.agents.keys import KeyRules, replace_key
from comms_api.agents.model import Admission
from comms_api.agents.replacement import ReplacementRule
from comms_api.agents.service import normal_networks
from comms_api.agents.store import EXTERNAL_TYPE, NewAgent
from comms_api.database.actor import Actor, acting_as
from comms_api.database.connection import Connection, Engine
from comms_api.database.housekeeping import transaction_duty
from comms_api.database.uuid7 import DatabaseClock
from comms_api.duties.repeating import Duty
from comms_api.errors import ConfigurationError, Conflict
from comms_api.fairness.executors import BoundedExecutor
from comms_api.key_requests.model import STATEMENT, ExternalAgent, KeySettings, Question, Refusal
from comms_api.key_requests.requests import KeyRequests
from comms_api.key_requests.store import delete_expired
from comms_api.protocol import Enrollment
from comms_api.revocations.service import Revocations
from comms_api.settings import Settings
from comms_api.tokens.secret import Secret

logger = logging.getLogger(__name__)

ACTOR = "a key request"
LOOKUPS_SECONDS = 60.0
HASH_THREADS = 1
HASH_NICENESS = 10
HASHES_MAXIMUM = 256
"""The maximum number of weak keys that a process hashes or queues; further logins get 503. A hash takes 25 ms."""


def key_settings(settings: Settings) -> KeySettings:
    """Return the settings of key requests; raises `ConfigurationError`, which names the setting."""
    try:
        return KeySettings(
            socket=settings.key_request_socket,
            url=settings.key_request_url,
            database_url=settings.key_request_database_url,
            program=tuple(shlex.split(settings.key_request_program or "")),
            ca=settings.key_request_ca,
            header_file=settings.key_request_header_file,
            statement=settings.key_request_statement or STATEMENT,
            timeout_seconds=settings.key_request_timeout_seconds,
            threads=settings.key_request_threads,
            queue_size=settings.key_request_queue_size,
            refusal_seconds=settings.key_request_refusal_seconds,
            address_failures_per_minute=settings.key_request_address_failures_per_minute,
            failures_per_minute=settings.key_request_failures_per_minute,
            program_user=settings.key_request_program_user,
        )
    except ValueError as error:
        raise ConfigurationError(f"key_request_{error}") from None


async def check_sources(settings: Settings) -> None:
    """Check the sources; raises `ConfigurationError`, which names the setting, if one cannot work."""
    try:
        requests = KeyRequests(key_settings(settings))
        await requests.check_health()
        await requests.close()
    except ConfigurationError as error:
        detail = error.detail.removeprefix("key_request_")
        raise ConfigurationError(f"key_request_{detail}") from None


class ExternalAgents:
    """Enrolls agents and updates their keys from an external database."""

    def __init__(
        self, engine: Engine, secret: Secret, clock: DatabaseClock, revocations: Revocations, settings: Settings
    ) -> None:
        self._engine = engine
        self._secret = secret
        self._slow = BoundedExecutor("weak keys", HASH_THREADS, HASHES_MAXIMUM, HASH_NICENESS)
        self._clock = clock
        self._revocations = revocations
        self._by_address = settings.key_request_by_address
        self._rules = KeyRules.of(settings)
        self._replacement_rule = ReplacementRule.of(settings)
        sources = key_settings(settings)
        self._requests = KeyRequests(sources, engine) if sources.is_enabled else None

    @property
    def key_requests(self) -> KeyRequests | None:
        """The key requests, if the settings name a source."""
        return self._requests

    def duties(self) -> list[Duty]:
        """Return the duty that forgets expired lookups."""
        return [transaction_duty("key lookups", self._engine, LOOKUPS_SECONDS, delete_expired)]

    async def close(self) -> None:
        """Cancel all lookups."""
        if self._requests is not None:
            await self._requests.close()

    async def find(self, name: UUID | str, address: str | None) -> ExternalAgent | None:
        """Return an agent from the external database, or None; raises `Unavailable` while it is unreachable."""
        if self._requests is None:
            return None
        client = network_of(address or "")
        found = await self._requests.ask(Question("id", str(name)), client)
        if isinstance(found, Refusal) and self._by_address and address is not None:
            found = await self._requests.ask(Question("ip", address), client)
        if isinstance(found, Refusal):
            logger.info("key request for %s refused: %d %s", name, found.code, found.message)
            return None
        return found

    async def charge_failure(self, address: str | None) -> None:
        """Count a key request for an agent whose key the client does not have."""
        if self._requests is not None:
            await self._requests.charge_failure(network_of(address or ""))

    async def enroll(self, found: ExternalAgent, address: str | None) -> Admission:
        """Enroll an agent that has proved its key; raises `Conflict` if an agent seen recently has its name."""
        key_hash = await self._hash(found.key, address)
        with acting_as(Actor(ACTOR, address)):
            async with self._engine.begin() as connection:
                admission, replaced = await self._enroll(connection, found, key_hash)
        await self._revocations.revoke_again(*replaced)
        return admission

    async def refresh_key(
        self, admission: Admission, name: UUID | str, key: str, address: str | None
    ) -> Admission | None:
        """Update the key and addresses of an agent if the external database now has the key that the agent sent.

        This applies only to agents that came from the external database, never to agents that an operator enrolled.
        """
        if self._requests is None or not admission.is_external:
            return None
        found = await self._requests.ask(Question("id", str(name)), network_of(address or ""))
        if isinstance(found, Refusal):
            return None
        if not self._secret.is_same_text(found.key, key):
            await self.charge_failure(address)
            return None
        values = {"key_hash": await self._hash(key, address), "allowed_addresses": normal_networks([found.ip])}
        with acting_as(Actor(ACTOR, address)):
            async with self._engine.begin() as connection:
                refreshed = await replace_key(connection, admission.id, values, key_hash=admission.key_hash)
        self._revocations.announce()
        return refreshed

    async def matches_slowly(self, key: str, stored: bytes, address: str | None) -> bool:
        """Return whether `key` matches a slow hash; False for a fast hash, which the caller compares directly."""
        if not self._secret.is_slow(stored):
            return False
        return await self._slow.run(network_of(address or ""), lambda: self._secret.key_matches(key, stored))

    async def _hash(self, key: str, address: str | None) -> bytes:
        if self._rules.is_strong(key):
            return self._secret.hash_key(key)
        return await self._slow.run(network_of(address or ""), lambda: self._secret.hash_weak_key(key))

    async def _enroll(
        self, connection: Connection, found: ExternalAgent, key_hash: bytes
    ) -> tuple[Admission, Sequence[str]]:
        """Return the enrolled agent, and the ids of the agents that it replaces."""
        replaced: Sequence[str] = ()
        is_number = found.id.isdecimal()
        new_agent = NewAgent(
            id=self._clock.uuid7() if is_number else UUID(found.id),
            key_hash=key_hash,
            external_id=found.id if is_number else None,
            allowed_addresses=normal_networks([found.ip]),
        )
        enrollment = Enrollment(name=found.name, key="", type=EXTERNAL_TYPE)
        name = found.id if is_number else new_agent.id
        await store.insert_agent(connection, new_agent, enrollment)
        # The row inserted here, or by another node that looked the agent up at the same time.
        admission = await store.find_admission(connection, name)
        if admission is None:  # another agent has its name
            replaced = await self._replacement_rule.delete_holders(
                connection, new_agent.id, found.name, is_authorised=False
            )
            await store.insert_agent(connection, new_agent, enrollment)
            admission = await store.find_admission(connection, name)
        if admission is None:
            raise Conflict(f"Another agent has just taken the name {found.name!r} of the external database.", code=1708)
        return admission, replaced
