"""Log agents in."""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from uuid import UUID

import msgspec

from comms_api.addresses import is_within
from comms_api.agents.keys import LOGIN_FAILURES
from comms_api.agents.model import Admission
from comms_api.agents.presence import Presence
from comms_api.agents.store import find_admissions, show_again, update_agent
from comms_api.database.coalescing import Coalescer
from comms_api.database.connection import Engine
from comms_api.database.housekeeping import transaction_duty
from comms_api.duties.repeating import Duty
from comms_api.errors import Forbidden, Invalid, TooManyRequests, Unauthenticated, Unavailable
from comms_api.fleet.descriptions import Descriptions
from comms_api.key_requests.flights import AskedElsewhere
from comms_api.lockouts.outcomes import LoginOutcomes
from comms_api.lockouts.service import FailureLimit
from comms_api.lockouts.store import delete_forgotten
from comms_api.login.external import ExternalAgents
from comms_api.login.rotation import KeyRotation
from comms_api.protocol import AGENT_ID_VERSIONS, IDENTITY_IN_USE, Credentials
from comms_api.text.limited_log import LimitedLog
from comms_api.tokens.issuer import AGENTS, Tokens
from comms_api.tokens.secret import Secret

logger = logging.getLogger(__name__)

FAILURES_SECONDS = 60.0
EXTERNAL_ID = re.compile(r"[0-9]{3,8}")


class LoginClient(msgspec.Struct, frozen=True):
    """The client of a login: its address and its description of itself.

    `certified` is the agent id in its certificate, and `instance` the nonce of its process.
    """

    address: str | None = None
    certified: str | None = None
    user_agent: str | None = None
    instance: str | None = None


class CloneRule(msgspec.Struct, frozen=True):
    """The rule for logins of the younger of two clones, while the agent is active."""

    clones: Literal["report", "refuse", "reenroll"] = "report"

    def check(self, instance: str | None, admission: Admission) -> None:
        """Raise `Forbidden` for the younger clone, unless clones are only reported; its agent retries or enrolls."""
        if self.clones == "report" or instance is None or instance != admission.younger_instance:
            return
        if self.clones == "reenroll":
            raise Forbidden("Another process uses this identity; enroll again.", code=IDENTITY_IN_USE)
        raise Forbidden("Another process uses this identity. Give this agent a separate identity.")


class Login:
    """The login of agents.

    A key with a fast hash cannot be guessed, so attempts with it are not limited. Expensive attempts, which need a slow
    hash or a key request, are limited per agent and address. An unknown agent costs one lookup. At most
    `waiting_maximum` logins wait; beyond that, agents must retry.
    """

    def __init__(  # noqa: PLR0913 - a login needs all of them
        self,
        engine: Engine,
        secret: Secret,
        tokens: Tokens,
        presence: Presence,
        descriptions: Descriptions,
        external: ExternalAgents,
        rotation: KeyRotation,
        clones: CloneRule,
        waiting_maximum: int,
    ) -> None:
        self._external = external
        self._rotation = rotation
        self._clones = clones
        self._engine = engine
        self._reader = Coalescer[UUID | str, Admission | None](self._find, self._find_nobody)
        self._failures = FailureLimit(engine, LOGIN_FAILURES)
        self._secret = secret
        self._tokens = tokens
        self._presence = presence
        self._descriptions = descriptions
        self._waiting_maximum = waiting_maximum
        self._waiting = 0
        self._logins = LimitedLog(logger, logging.INFO)
        self._refusals = LimitedLog(logger, logging.WARNING)
        self.writers: Mapping[str, Coalescer[Any, Any]] = {"login_reader": self._reader}
        self.outcomes = LoginOutcomes()

    def duties(self) -> list[Duty]:
        """Return the duties that read admissions and forget failures."""
        return [
            self._reader.duty("login reader"),
            transaction_duty("login failures", self._engine, FAILURES_SECONDS, delete_forgotten),
        ]

    async def log_in(self, credentials: Credentials, client: LoginClient) -> str:
        """Return a token for the agent API.

        Raises `Unauthenticated` ("Invalid key") or `Forbidden` ("Agent does not exist"). Agents give up after either,
        so neither is raised while the database is unreachable. Raises `TooManyRequests` after several wrong keys, and
        `Unavailable` when too many agents log in at once.
        """
        address = client.address
        with self.outcomes.counting(), self._refusals.refusals(f"login of agent {credentials.uuid}", address):
            admission, read_at = await self._admit(credentials, client)
        self._logins.write(f"agent {admission.id} logged in from {address}")
        self._presence.logged_in(admission.id, address, client.instance)
        if client.user_agent is not None:
            self._descriptions.note_login(admission.id, client.user_agent)
        return self._tokens.issue(str(admission.id), AGENTS, networks=admission.allowed_addresses, issued_at=read_at)

    async def _admit(self, credentials: Credentials, client: LoginClient) -> tuple[Admission, float]:
        """Return an agent that may log in, and a time before its permissions were read."""
        name = _agent_id(credentials.uuid)
        if self._waiting >= self._waiting_maximum:
            raise Unavailable("Too many agents are logging in at once; try again later.")
        self._waiting += 1
        try:
            admission, read_at = await self._authenticate(name, credentials.key, client.address)
        finally:
            self._waiting -= 1
        _check_permission(admission, client.address, client.certified)
        self._clones.check(client.instance, admission)
        if admission.is_hidden:
            await self._show_again(admission)
        return admission, read_at

    async def _show_again(self, admission: Admission) -> None:
        """Show a hidden agent again before it gets its token, so that it is not removed in the meantime."""
        async with self._engine.connect() as connection:
            if not await show_again(connection, admission.id):
                raise Unavailable("The agent was removed during its login; try again.")

    async def _authenticate(self, name: UUID | str, key: str, address: str | None) -> tuple[Admission, float]:
        """Return the agent with this key, and a time before its permissions were read."""
        read_at = self._tokens.now()
        [admission] = await self._reader.submit(name, [name])
        if admission is None:
            try:
                return await self._enroll(name, key, address), self._tokens.now()
            except AskedElsewhere:  # then another node may have enrolled it
                read_at = self._tokens.now()
                [admission] = await self._reader.submit(name, [name])
        if admission is None:
            return await self._enroll(name, key, address), self._tokens.now()
        if self._rotation.is_next(key, admission):
            return await self._rotate(admission, key, address), self._tokens.now()
        if self._secret.is_slow(admission.key_hash) or not self._secret.key_matches(key, admission.key_hash):
            return await self._try(admission, read_at, name, key, address)
        if self._secret.is_outdated(key, admission.key_hash):
            async with self._engine.begin() as connection:
                values = {"key_hash": self._secret.hash_key(key)}
                await update_agent(connection, admission.id, values, key_hash=admission.key_hash)
        return admission, read_at

    async def _enroll(self, name: UUID | str, key: str, address: str | None) -> Admission:
        """Enroll an agent that an external database knows by this key."""
        await self._failures.check(str(name), address)
        found = await self._external.find(name, address)
        if found is None:
            raise Forbidden("Agent does not exist")
        async with self._failures.charged(found.id, address):
            if not self._secret.is_same_text(found.key, key):
                await self._external.charge_failure(address)
                raise Unauthenticated("Invalid key")
        admission = await self._external.enroll(found, address)
        self._logins.write(f"agent {found.name} ({admission.id}) enrolled from {address}, by a key request")
        return admission

    async def _rotate(self, admission: Admission, key: str, address: str | None) -> Admission:
        """Activate an agent's next key; of several simultaneous logins with it, exactly one does so."""
        rotated = await self._rotation.activate(admission, key, address)
        if rotated is None:
            [rotated] = await self._reader.submit(admission.id, [admission.id])
        if rotated is None or not self._secret.key_matches(key, rotated.key_hash):
            raise Unauthenticated("Invalid key")
        return rotated

    async def _try(
        self, admission: Admission, read_at: float, name: UUID | str, key: str, address: str | None
    ) -> tuple[Admission, float]:
        """Compare a key that needs a slow hash, or that only an external database may know.

        The attempt is charged as a failure first. If it stays unknown whether the key is right, the charge is refunded,
        unless the key was compared with a slow hash.
        """
        who, is_compared = str(admission.id), False
        await self._failures.charge(who, address)
        try:
            is_right = await self._external.matches_slowly(key, admission.key_hash, address)
            is_compared = self._secret.is_slow(admission.key_hash)
            if not is_right:
                refreshed = await self._external.refresh_key(admission, name, key, address)
                if refreshed is None:
                    raise Unauthenticated("Invalid key")
                admission, read_at = refreshed, self._tokens.now()
        except (TooManyRequests, Unavailable):
            if not is_compared:
                await self._failures.refund(who, address)
            raise
        await self._failures.clear(who, address)
        return admission, read_at

    async def _find(self, names: Sequence[UUID | str]) -> Sequence[Admission | None]:
        async with self._engine.connect() as connection:
            return await find_admissions(connection, names)

    async def _find_nobody(self, _name: UUID | str, _reason: str) -> None:
        """Return None for a name that PostgreSQL refuses: no agent can have it."""


def _check_permission(admission: Admission, address: str | None, certified: str | None) -> None:
    if admission.is_blocked:
        raise Forbidden("The agent is blocked.")
    if admission.allowed_addresses and not is_within(address, admission.allowed_addresses):
        raise Forbidden("The agent may not log in from this address.")
    if certified is not None and certified.lower() != str(admission.id):
        raise Forbidden("The certificate names another agent.")


def _agent_id(text: str) -> UUID | str:
    if EXTERNAL_ID.fullmatch(text):
        return text
    try:
        agent_id = UUID(text)
    except ValueError:
        agent_id = None
    if agent_id is None or agent_id.version not in AGENT_ID_VERSIONS:
        raise Invalid("uuid: must be a UUID of version 4 or 7, or an external id of 3 to 8 digits")
    return agent_id
