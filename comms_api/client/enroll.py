"""Enroll once. The agent chooses its id and its key, and stores both before the server gets them."""

import hashlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias
from uuid import UUID

import httpx
import msgspec

from comms_api import __version__
from comms_api.client.host import this_host
from comms_api.client.options import Options
from comms_api.client.spool.model import Identity
from comms_api.client.spool.thread import SpoolThread
from comms_api.client.transport.calls import describe, is_fault_of_server, read_problem
from comms_api.client.transport.endpoint import Endpoint
from comms_api.client.transport.keys import new_key
from comms_api.client.transport.servers import rank
from comms_api.errors import CommsError, ConfigurationError
from comms_api.protocol import Enrollment, Token

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 20.0
KEY_FILE_FACT = "key_file"

Ask: TypeAlias = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]
"""Asks a server to enroll the agent, and returns the last answer."""


class _LoginAnswer(msgspec.Struct, frozen=True):
    data: Token


def new_identity() -> Identity:
    """Choose an id (UUIDv7, RFC 9562) and a random key."""
    stamp = int(time.time() * 1000).to_bytes(6, "big") + os.urandom(10)
    number = int.from_bytes(stamp, "big") & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62
    return Identity(str(UUID(int=number)), new_key())


async def ensure_enrolled(options: Options, spool: SpoolThread, servers: Sequence[Endpoint]) -> Identity:
    """Return the agent's identity, and enroll first if that was not done. After a crash, the next start completes it.

    `servers` are those of the agent API.

    Raises `ConfigurationError` if an option is missing, and `CommsError` if the server refuses.
    """
    identity = await spool.run(spool.file.find_identity)
    if identity is None:
        identity = _external_identity(options) or new_identity()
        await spool.run(spool.file.remember_identity, identity)
    identity = await _with_key_of_file(options, spool, identity)
    if not identity.is_enrolled:
        if options.enrollment_token_file is not None:
            await _enroll_by_token(options, servers, identity, options.enrollment_token_file)
        else:
            await _enroll(options, identity)
        identity = msgspec.structs.replace(identity, is_enrolled=True)
        await spool.run(spool.file.remember_identity, identity)
        await spool.run(spool.file.remember, "groups", options.groups)
        logger.info("enrolled as %r with the id %s", options.name, identity.id)
    return identity


async def take_new_identity(options: Options, spool: SpoolThread) -> Options:
    """Replace the identity of a clone; return the options with a name that no agent has.

    All states are collected again, for the new agent. Raises `ConfigurationError` if the options allow no enrollment.
    """
    if options.agent_id is not None or (options.enrollment_token_file is None and options.password_file is None):
        raise ConfigurationError(
            "another process uses this identity: give --enrollment-token-file, or --management-url and"
            " --password-file, so that this agent can enroll again"
        )
    identity = new_identity()
    await spool.run(spool.file.remember_identity, identity)
    await spool.run(spool.file.changes.start_over, 0)
    return msgspec.structs.replace(options, name=f"{options.name}-{identity.id[-6:]}", key_file=None)


def _external_identity(options: Options) -> Identity | None:
    """Return the identity that an external database has of this agent, which then only logs in."""
    if options.agent_id is None:
        return None
    if options.key_file is None:
        raise ConfigurationError("--id needs --key-file")
    return Identity(options.agent_id, read_secret("--key-file", options.key_file), is_enrolled=True, is_external=True)


async def _with_key_of_file(options: Options, spool: SpoolThread, identity: Identity) -> Identity:
    """Adopt the key in the file once: it may have been rotated since."""
    if options.key_file is None:
        return identity
    if not identity.is_enrolled:
        raise ConfigurationError("--key-file is for an agent that is enrolled, or goes with --id")
    key = read_secret("--key-file", options.key_file)
    digest = hashlib.sha256(key.encode()).hexdigest()
    if await spool.run(spool.file.find_fact, KEY_FILE_FACT) != msgspec.json.encode(digest):
        identity = msgspec.structs.replace(identity, key=key, next_key="")
        await spool.run(spool.file.remember_identity, identity)
        await spool.run(spool.file.remember, KEY_FILE_FACT, digest)
    return identity


def read_secret(option: str, path: Path) -> str:
    """Return the secret in a file; raises `ConfigurationError`, with the option that names it, if that fails."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{option}: {error}") from None


def _enrollment(options: Options, identity: Identity) -> Enrollment:
    return Enrollment(
        name=options.name,
        key=identity.key,
        id=UUID(identity.id),
        type="reference",
        version=__version__,
        host=this_host(),
        groups=options.groups,
    )


async def _enroll_by_token(options: Options, servers: Sequence[Endpoint], identity: Identity, token_file: Path) -> None:
    """Enroll at the agent API; a repetition after a crash succeeds like the first request."""
    headers = {"Authorization": f"Bearer {read_secret('--enrollment-token-file', token_file)}"}
    content = msgspec.json.encode(_enrollment(options, identity))

    async def post(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post("/enroll", content=content, headers=headers)

    await _ask_one(options.name, _ordered(servers, identity), post)


async def _enroll(options: Options, identity: Identity) -> None:
    """Enroll at the management API as a user."""
    if not options.management_urls or options.password_file is None:
        raise ConfigurationError(
            "not enrolled yet: give --management-url and --password-file, or --enrollment-token-file, or --id and"
            " --key-file"
        )
    credentials = options.user, read_secret("--password-file", options.password_file)
    servers = _ordered(map(options.endpoint, options.management_urls), identity)
    await _ask_one(options.name, servers, partial(_log_in_and_post, credentials, _enrollment(options, identity)))


def _ordered(servers: Iterable[Endpoint], identity: Identity) -> list[Endpoint]:
    return sorted(servers, key=lambda server: rank(identity.id, server))


async def _ask_one(name: str, servers: Sequence[Endpoint], ask: Ask) -> None:
    """Enroll at the first server that answers; raises `CommsError` if it refuses, or if none answers."""
    reason = ""
    for server in servers:
        try:
            async with server.async_client(TIMEOUT_SECONDS) as client:
                answer = await ask(client)
        except (httpx.RequestError, msgspec.DecodeError, OSError) as error:
            reason = f"at {server.url}: {describe(error)}"
            continue
        if answer.is_success:
            return
        reason = f"as {name!r}: status {answer.status_code} {read_problem(answer).detail}".strip()
        if not is_fault_of_server(answer):
            break
    raise CommsError(f"cannot enroll {reason}")


async def _log_in_and_post(
    credentials: tuple[str, str], enrollment: Enrollment, client: httpx.AsyncClient
) -> httpx.Response:
    login = await client.post("/security/user/authenticate", auth=credentials)
    if login.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
        raise CommsError(f"cannot enroll: the user {credentials[0]!r} is refused with status {login.status_code}")
    if not login.is_success:
        return login
    token = msgspec.json.decode(login.content, type=_LoginAnswer).data.token
    headers = {"Authorization": f"Bearer {token}"}
    answer = await client.post("/agents", content=msgspec.json.encode(enrollment), headers=headers)
    if answer.status_code == httpx.codes.CONFLICT:
        existing = await client.get(f"/agents/{enrollment.id}", headers=headers)
        if existing.is_success:  # the agent enrolled before, and crashed before it stored that
            return existing
    return answer
