"""The agent's session at the agent API: log in, renew the token, and retry until the server answers."""

import asyncio
import logging
import random
import secrets
import time
from typing import TypeVar
from uuid import UUID

import httpx
import msgspec

from comms_api.client.spool.model import Identity
from comms_api.client.spool.thread import SpoolThread
from comms_api.client.transport.calls import Call, Refused, check_refusal, read_problem
from comms_api.client.transport.claims import read_claims, token_lifetime_seconds
from comms_api.client.transport.keys import Keys
from comms_api.client.transport.servers import Servers
from comms_api.errors import Unauthenticated
from comms_api.protocol import (
    AGENT_INSTANCE,
    BATCH_SEQUENCE,
    IDEMPOTENCY_KEY,
    IDENTITY_IN_USE,
    JSON_LINES,
    Credentials,
    NextKey,
    Token,
)

logger = logging.getLogger(__name__)

RENEW_AFTER_SHARE = (0.7, 0.9)
"""The range of the share of a token's lifetime after which it is renewed; random, to spread the logins of a fleet."""

FINAL_MESSAGES = {"Invalid key", "Agent does not exist"}
HINTS = {"Invalid key": " If the agent has a new key, start it with --key-file."}

Form = TypeVar("Form")


class IdentityInUse(Unauthenticated):
    """An older process uses this identity; take a new one and enroll again."""


class Session:
    """Sends requests with a valid token; the first call logs in.

    The keys of `identity` may change during a rotation: the spool keeps them.
    """

    def __init__(self, servers: Servers, identity: Identity, spool: SpoolThread) -> None:
        self._servers = servers
        self._id = identity.id
        self._keys = Keys(identity, spool)
        self._spool = spool
        self._instance = secrets.token_hex(16)
        """A nonce of this process: two copies of a spool have the same identity, but different nonces."""
        self._was_connected = False
        self.is_failing = False
        """Whether the last attempt got an error or no answer."""
        self._token = ""
        self._renew_at = 0.0
        self._login_lock = asyncio.Lock()

    def check_server(self) -> None:
        """Check soon whether another server is better: this one seems to send its agents away."""
        self._servers.check_soon()

    async def learn_id(self) -> str:
        """Log in and return the server's id of this agent; raises `Unauthenticated` if the token has none."""
        claims = read_claims(await self._valid_token())
        try:
            return str(UUID(claims.uuid if claims else ""))
        except ValueError:
            raise Unauthenticated("The server's token does not say who this agent is.") from None

    async def rotate_key(self, order_id: str) -> None:
        """Make a new key and submit it for an order; the next login uses it and ends the old key.

        Raises `Refused` if the server refuses the new key.
        """
        keys = await self._keys.propose()
        submission = NextKey(UUID(order_id), keys.key, keys.next_key)
        try:
            await self.send(Call("PUT", "/key", msgspec.json.encode(submission)))
        except Refused:
            await self._keys.withdraw()
            raise
        self._keys.submitted()
        async with self._login_lock:
            self._token = ""

    async def ask(self, call: Call, form: type[Form]) -> Form:
        """Send a request and return its answer as `form`; retry if the answer is unreadable. Raises as `send` does."""
        attempt = 0
        while True:
            answer = await self.send(call)
            try:
                return msgspec.json.decode(answer.content, type=form)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                logger.warning("%s %s: the answer cannot be read: %s", call.method, call.path, error)
            attempt += 1
            await self._wait(attempt, answer)

    async def send(self, call: Call) -> httpx.Response:
        """Send a request until the server answers with 2xx, and return that answer.

        Raises `Refused` if the server would refuse the request every time, and `Unauthenticated` if it would refuse
        every login.
        """
        attempt = 0
        while True:
            token = await self._valid_token()
            answer = await self._try(call, _headers(call, token))
            if answer is not None and answer.is_success:
                return answer
            if answer is not None and answer.status_code == httpx.codes.NOT_FOUND and call.may_be_missing:
                return answer
            if answer is not None:
                check_refusal(answer)
            if answer is not None and answer.status_code in {401, 403} and self._token == token:
                self._token = ""  # log in again: only the answer to a login is final
            attempt += 1
            await self._wait(attempt, answer)

    async def _try(self, call: Call, headers: dict[str, str]) -> httpx.Response | None:
        answer = await self._servers.ask(call, headers)
        self.is_failing = answer is None or not answer.is_success
        return answer

    async def _wait(self, attempt: int, answer: httpx.Response | None) -> None:
        self._spool.later(self._spool.file.count, retries=1)
        await asyncio.sleep(self._servers.pause_seconds(attempt, answer))

    async def _valid_token(self) -> str:
        async with self._login_lock:
            if not self._token or time.monotonic() >= self._renew_at:
                await self._log_in()
            return self._token

    async def _log_in(self) -> None:
        attempt = 0
        while True:
            key = self._keys.to_try()
            content = msgspec.json.encode(Credentials(self._id, key))
            headers = {"Content-Type": "application/json", AGENT_INSTANCE: self._instance}
            answer = await self._try(Call("POST", "/login", content), headers)
            if answer is not None and self._accept_token(answer, key):
                await self._keys.accepted(key)
                return
            attempt += 1
            await self._wait(attempt, answer)

    def _accept_token(self, answer: httpx.Response, key: str) -> bool:
        """Use the token in an answer; return False if it has none, and raise if no login will ever succeed."""
        problem = read_problem(answer)
        message = problem.message
        if answer.status_code == httpx.codes.FORBIDDEN and problem.code == IDENTITY_IN_USE:
            raise IdentityInUse(problem.detail)
        if answer.status_code in {401, 403} and message in FINAL_MESSAGES:
            if self._keys.has_another(key):
                return False
            raise Unauthenticated(f"The server refuses this agent: {message}.{HINTS.get(message, '')}")
        if not answer.is_success:
            return False
        try:
            token = msgspec.json.decode(answer.content, type=Token).token
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False
        share = random.uniform(*RENEW_AFTER_SHARE)  # noqa: S311 - spreading, no secret
        self._renew_at = time.monotonic() + token_lifetime_seconds(token) * share
        self._token = token
        self._spool.later(self._spool.file.count, logins=1)
        if not self._was_connected:
            self._was_connected = True
            logger.info("connected to %s as the agent %s", self._servers.url, self._id)
        return True


def _headers(call: Call, token: str) -> dict[str, str]:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": JSON_LINES}
    if call.sequence is not None:
        headers[BATCH_SEQUENCE] = str(call.sequence)
    if call.key is not None:
        headers[IDEMPOTENCY_KEY] = call.key
    return headers
