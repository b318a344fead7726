"""The agent's conversation with the agent API: log in, renew, and try again until there is an answer that counts."""

import asyncio
import base64
import binascii
import logging
import random
import re
import time
from types import TracebackType
from typing import Self, TypeVar
from uuid import UUID

import httpx
import msgspec

from comms_api.client.backoff import delay_seconds
from comms_api.client.spool.model import Identity
from comms_api.client.spool.spool import Spool
from comms_api.client.transport.endpoint import Endpoint
from comms_api.client.transport.keys import Keys
from comms_api.errors import CommsError, Unauthenticated
from comms_api.protocol import BATCH_SEQUENCE, Credentials, NextKey, Token

logger = logging.getLogger(__name__)

REQUEST_SECONDS = 60.0
RENEW_AFTER_SHARE = (0.7, 0.9)
"""The part of a token's life after which it is renewed, drawn anew for each so that a fleet does not march in step."""

UNREADABLE_TOKEN_SECONDS = 60.0

FINAL_MESSAGES = {"Invalid key", "Agent does not exist"}
HINTS = {"Invalid key": " If the agent has a new key, start it with --key-file."}
FINAL_STATUSES = {400, 413, 415, 422}
"""What is wrong with the request itself: the same request again would be refused again. All else is tried again."""

_NUMBER = re.compile(r"\d{1,18}", re.ASCII)

Form = TypeVar("Form")


class Call(msgspec.Struct, frozen=True):
    """What is asked of the server; `timeout_seconds` is how long the answer may take to begin."""

    method: str
    path: str
    content: bytes | None = None
    timeout_seconds: float = REQUEST_SECONDS
    sequence: int | None = None
    """The number of a stateful batch."""
    may_be_missing: bool = False
    """Whether a 404 is an answer, and not something to try again."""


class Refused(CommsError):
    """The server refuses this request, and would refuse it again."""

    def __init__(self, reason: str, latest_sequence: int | None = None) -> None:
        """Raise with the newest batch's number if the server has applied a newer batch."""
        super().__init__(reason)
        self.latest_sequence = latest_sequence


class _Claims(msgspec.Struct, frozen=True):
    exp: float
    iat: float | None = None
    uuid: str = ""


class Problem(msgspec.Struct, frozen=True):
    """What the agent reads of an error."""

    message: str = ""
    detail: str = ""


def problem_of(answer: httpx.Response) -> Problem:
    """Return the error an answer tells of; an empty one when it is not ours, as a proxy's."""
    try:
        return msgspec.json.decode(answer.content, type=Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Problem()


def _headers(call: Call, token: str) -> dict[str, str]:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/x-ndjson"}
    return headers if call.sequence is None else headers | {BATCH_SEQUENCE: str(call.sequence)}


def _check_refusal(answer: httpx.Response) -> None:
    latest = answer.headers.get(BATCH_SEQUENCE, "")
    is_outdated = answer.status_code == httpx.codes.CONFLICT and _NUMBER.fullmatch(latest) is not None
    if is_outdated or answer.status_code in FINAL_STATUSES:
        reason = f"status {answer.status_code}: {problem_of(answer).detail}"
        raise Refused(reason, int(latest) if is_outdated else None)


class Session:
    """Sends requests with a token that is always good."""

    def __init__(self, endpoint: Endpoint, identity: Identity, spool: Spool) -> None:
        """Send nothing yet: the first call logs in."""
        self._client = endpoint.async_client(REQUEST_SECONDS)
        self._id = identity.id
        self._keys = Keys(identity, spool)
        self._spool = spool
        self._url = endpoint.url
        self._was_connected = False
        self.is_failing = False
        """Whether the last attempt got no answer, or no good one."""
        self._token = ""
        self._renew_at = 0.0
        self._login_lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Open the connection pool."""
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close every connection."""
        await self._client.__aexit__(kind, error, traceback)

    async def learn_id(self) -> str:
        """Log in and return the id that the server has for this agent; raises `Unauthenticated` when it tells none."""
        claims = _read_claims(await self._good_token())
        try:
            return str(UUID(claims.uuid if claims else ""))
        except ValueError:
            raise Unauthenticated("The server's token does not say who this agent is.") from None

    async def rotate_key(self, order_id: str) -> None:
        """Make a new key and submit it for an order; the next login uses it and ends the old key.

        Raises `Refused` when the server does not accept it.
        """
        keys = self._keys.propose()
        submission = NextKey(UUID(order_id), keys.key, keys.next_key)
        try:
            await self.send(Call("PUT", "/key", msgspec.json.encode(submission)))
        except Refused:
            self._keys.withdraw()
            raise
        self._keys.submitted()
        async with self._login_lock:
            self._token = ""

    async def ask(self, call: Call, form: type[Form]) -> Form:
        """Send a call and return its answer as `form`; what cannot be read as that is tried again."""
        attempt = 0
        while True:
            answer = await self.send(call)
            try:
                return msgspec.json.decode(answer.content, type=form)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                logger.warning("%s %s: the answer cannot be read: %s", call.method, call.path, error)
            attempt += 1
            await self._wait(attempt, None)

    async def send(self, call: Call) -> httpx.Response:
        """Return the server's 2xx, however often it takes.

        Raises `Refused` when it would never come, and `Unauthenticated` when this agent will never be let in.
        """
        attempt = 0
        while True:
            token = await self._good_token()
            answer = await self._try(call, _headers(call, token))
            if answer is not None and answer.is_success:
                return answer
            if answer is not None and answer.status_code == httpx.codes.NOT_FOUND and call.may_be_missing:
                return answer
            if answer is not None:
                _check_refusal(answer)
            if answer is not None and answer.status_code in {401, 403} and self._token == token:
                self._token = ""  # log in again: only a login tells for certain
            attempt += 1
            await self._wait(attempt, answer)

    async def _try(self, call: Call, headers: dict[str, str]) -> httpx.Response | None:
        timeout = httpx.Timeout(REQUEST_SECONDS, read=call.timeout_seconds)
        try:
            answer = await self._client.request(
                call.method, call.path, content=call.content, headers=headers, timeout=timeout
            )
        except httpx.RequestError as error:
            logger.warning("%s %s: %s %s", call.method, call.path, type(error).__name__, error)
            self.is_failing = True
            return None
        self.is_failing = not answer.is_success
        if self.is_failing:
            logger.warning("%s %s: status %d %s", call.method, call.path, answer.status_code, problem_of(answer).detail)
        return answer

    async def _wait(self, attempt: int, answer: httpx.Response | None) -> None:
        self._spool.count(retries=1)
        await asyncio.sleep(delay_seconds(attempt, None if answer is None else answer.headers.get("Retry-After")))

    async def _good_token(self) -> str:
        async with self._login_lock:
            if not self._token or time.monotonic() >= self._renew_at:
                await self._log_in()
            return self._token

    async def _log_in(self) -> None:
        attempt = 0
        while True:
            key = self._keys.to_try()
            content = msgspec.json.encode(Credentials(self._id, key))
            answer = await self._try(Call("POST", "/login", content), {"Content-Type": "application/json"})
            if answer is not None and self._takes_token(answer, key):
                self._keys.accepted(key)
                return
            attempt += 1
            await self._wait(attempt, answer)

    def _takes_token(self, answer: httpx.Response, key: str) -> bool:
        message = problem_of(answer).message
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
        self._renew_at = time.monotonic() + token_life_seconds(token) * random.uniform(*RENEW_AFTER_SHARE)  # noqa: S311
        self._token = token
        self._spool.count(logins=1)
        if not self._was_connected:
            self._was_connected = True
            logger.info("connected to %s as the agent %s", self._url, self._id)
        return True


def token_life_seconds(token: str) -> float:
    """Return how long a new token is good; it is read, not verified, as only the server can.

    One that cannot be read is taken to last a minute. The issuer's `iat` is preferred to this host's clock, which may
    be wrong by more than a token's life.
    """
    claims = _read_claims(token)
    if claims is None:
        return UNREADABLE_TOKEN_SECONDS
    return claims.exp - (time.time() if claims.iat is None else claims.iat)


def _read_claims(token: str) -> _Claims | None:
    try:
        part = token.split(".")[1]
        return msgspec.json.decode(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)), type=_Claims)
    except (IndexError, binascii.Error, msgspec.DecodeError, UnicodeDecodeError):
        return None
