"""The agent's conversation with the agent API: log in, renew, and try again until there is an answer that counts."""

import asyncio
import base64
import binascii
import logging
import random
import ssl
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import msgspec

from comms_api.client.backoff import delay_seconds
from comms_api.client.model import Identity
from comms_api.client.spool import Spool
from comms_api.errors import Unauthenticated
from comms_api.protocol import Credentials, Token

logger = logging.getLogger(__name__)

REQUEST_SECONDS = 60.0
RENEW_AFTER_SHARE = (0.7, 0.9)
"""The part of a token's life after which it is renewed, drawn anew for each so that a fleet does not march in step."""

FINAL_MESSAGES = {"Invalid key", "Agent does not exist"}
_RETRIED = {401, 403, 408, 425, 429, 500, 502, 503, 504}


class _Expiry(msgspec.Struct, frozen=True):
    exp: float


class _Problem(msgspec.Struct, frozen=True):
    message: str = ""


def tls_context(ca: Path | None) -> ssl.SSLContext:
    """Return a context that trusts `ca`, or the system's authorities."""
    return ssl.create_default_context(cafile=ca)


class Session:
    """Sends requests with a token that is always good."""

    def __init__(self, url: str, ca: Path | None, identity: Identity, spool: Spool) -> None:
        """Take where to and as whom; nothing is sent yet."""
        self._client = httpx.AsyncClient(base_url=url, verify=tls_context(ca), timeout=REQUEST_SECONDS)
        self._identity = identity
        self._spool = spool
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

    async def send(
        self, method: str, path: str, content: bytes | None = None, timeout_seconds: float = REQUEST_SECONDS
    ) -> httpx.Response:
        """Return the answer to a request, however often it takes: a 2xx, or a refusal that would not change.

        Raises `Unauthenticated` when the server says that this agent will never be let in.
        """
        attempt = 0
        while True:
            token = await self._good_token()
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/x-ndjson"}
            request = self._client.build_request(
                method, path, content=content, headers=headers, timeout=timeout_seconds
            )
            answer = await self._try(request)
            if answer is not None and answer.status_code not in _RETRIED:
                return answer
            if answer is not None and answer.status_code in {401, 403} and self._token == token:
                self._token = ""  # refused: log in again
            attempt += 1
            await self._wait(attempt, answer)

    async def _try(self, request: httpx.Request) -> httpx.Response | None:
        try:
            return await self._client.send(request)
        except httpx.TransportError as error:
            logger.info("%s %s: %s", request.method, request.url.path, type(error).__name__)
            return None

    async def _wait(self, attempt: int, answer: httpx.Response | None) -> None:
        self._spool.count(retries=1)
        await asyncio.sleep(delay_seconds(attempt, answer.headers.get("Retry-After") if answer else None))

    async def _good_token(self) -> str:
        async with self._login_lock:
            if not self._token or time.monotonic() >= self._renew_at:
                await self._log_in()
            return self._token

    async def _log_in(self) -> None:
        credentials = msgspec.json.encode(Credentials(str(self._identity.id), self._identity.key))
        attempt = 0
        while True:
            answer = await self._try(self._client.build_request("POST", "/login", content=credentials))
            if answer is not None and answer.is_success:
                break
            _raise_if_final(answer)
            attempt += 1
            await self._wait(attempt, answer)
        self._token = msgspec.json.decode(answer.content, type=Token).token
        life_seconds = token_expiry(self._token) - time.time()
        self._renew_at = time.monotonic() + life_seconds * random.uniform(*RENEW_AFTER_SHARE)  # noqa: S311
        self._spool.count(logins=1)


def _raise_if_final(answer: httpx.Response | None) -> None:
    if answer is None or answer.status_code not in {401, 403}:
        return
    message = msgspec.json.decode(answer.content, type=_Problem).message
    if message in FINAL_MESSAGES:
        raise Unauthenticated(f"The server refuses this agent: {message}.")


def token_expiry(token: str) -> float:
    """Return when a token ends, in seconds since 1970; it is read, not verified, as only the server can."""
    try:
        claims = token.split(".")[1]
        return msgspec.json.decode(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)), type=_Expiry).exp
    except (IndexError, binascii.Error, msgspec.DecodeError):
        raise Unauthenticated("The server's token cannot be read.") from None
