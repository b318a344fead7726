"""Log users in, and create, change and delete them."""

import logging
import re
import secrets
from hashlib import blake2b
from pathlib import Path
from uuid import UUID, uuid4

import msgspec

from comms_api.addresses import network_of
from comms_api.database.connection import Connection, Engine
from comms_api.database.housekeeping import HOUSEKEEPING_SECONDS, transaction_duty
from comms_api.database.pages import Page, page_of
from comms_api.duties.repeating import Duty
from comms_api.errors import ConfigurationError, Conflict, Invalid, NotFound, Unauthenticated
from comms_api.lockouts.outcomes import LoginOutcomes
from comms_api.revocations.service import Revocations
from comms_api.revocations.store import revoke_tokens, was_revoked_since
from comms_api.text.limited_log import LimitedLog
from comms_api.tokens.issuer import MANAGEMENT, Role, Tokens
from comms_api.tokens.secret import token_digest
from comms_api.users import store
from comms_api.users.devices import delete_devices, forget_devices, insert_device, renew_device, trim_devices
from comms_api.users.guesses import GuessLimits
from comms_api.users.model import (
    PASSWORD_LENGTH_MINIMUM,
    BrowserSession,
    LoginRecord,
    NewUser,
    Origin,
    PasswordChange,
    TokenPair,
    User,
    UserChange,
)
from comms_api.users.passwords import Passwords
from comms_api.users.store import RefreshToken

logger = logging.getLogger(__name__)

FIRST_ADMINISTRATOR = "admin"
REFRESH_SECONDS = 12 * 3600.0
DEVICE_TOKEN_BYTES = 32
SESSION_BYTES = 32
_FAMILY = re.compile("[0-9a-f]{32}")
CACHED_TOKENS_MAXIMUM = 1_000


class Users:
    """The users of the management API."""

    def __init__(self, engine: Engine, tokens: Tokens, revocations: Revocations) -> None:
        self._engine = engine
        self._tokens = tokens
        self._revocations = revocations
        self._passwords = Passwords()
        self._guesses = GuessLimits(engine)
        self._digest_key = secrets.token_bytes(32)
        self._cached_tokens: dict[bytes, str] = {}
        self._logins = LimitedLog(logger, logging.INFO)
        self._refusals = LimitedLog(logger, logging.WARNING)
        self.outcomes = LoginOutcomes()

    def duties(self) -> list[Duty]:
        """Return the duties that delete expired refresh tokens and devices."""
        return [
            transaction_duty("refresh tokens", self._engine, HOUSEKEEPING_SECONDS, store.forget_refresh_tokens),
            transaction_duty("users' devices", self._engine, HOUSEKEEPING_SECONDS, forget_devices),
        ]

    async def log_in(self, name: str, password: str, origin: Origin) -> TokenPair:
        """Return tokens for the management API, and a device token for the next login.

        Raises `Unauthenticated`, the same for a wrong name or password, and `TooManyRequests` after several failures.
        """
        record, read_at = await self._check(name, password, origin)
        text, refresh_token = _new_refresh_token(uuid4())
        device_token = await self._admit(name, origin, record, read_at, refresh_token)
        return msgspec.structs.replace(self._pair(name, record.role, read_at, text), device_token=device_token)

    async def open_session(self, name: str, password: str, origin: Origin) -> BrowserSession:
        """Log a user in, and return a session for a browser instead of tokens; raises like `log_in`."""
        record, read_at = await self._check(name, password, origin)
        text = secrets.token_urlsafe(SESSION_BYTES)
        device_token = await self._admit(name, origin, record, read_at, RefreshToken(uuid4(), session_digest(text)))
        return BrowserSession(text, device_token)

    async def _admit(
        self, name: str, origin: Origin, record: LoginRecord, read_at: float, refresh_token: RefreshToken
    ) -> str:
        """Store the refresh token of a login, and return the device token to use from now on."""
        async with self._engine.begin() as connection:
            await _refuse_revoked(connection, name, read_at)
            await store.insert_refresh_token(connection, name, refresh_token, REFRESH_SECONDS)
            device_token = await self._remember_device(connection, name, origin, record)
        self._logins.write(f"user {name} logged in from {origin.address}")
        return device_token

    async def session_token(self, session: str, *, is_attended: bool) -> str:
        """Return a token for the requests of a browser session; raises `Unauthenticated` if the session has ended.

        While the token is valid, the session gets it again. A new token for an attended request extends the session, as
        a refresh does; a token for a poll of an unattended page does not. Whatever revokes the user's tokens
        revokes this one as well; a log-out also ends the session.
        """
        digest = session_digest(session)
        keys = [digest] if is_attended else [digest, digest + b"unattended"]
        for key in keys:
            cached = self._cached_tokens.get(key)
            if cached is not None and self._is_good(cached):
                return cached
        read_at = self._tokens.now()
        async with self._engine.begin() as connection:
            if is_attended:
                holder = await store.renew_session(connection, digest, REFRESH_SECONDS)
            else:
                holder = await store.find_session(connection, digest)
            if holder is None:
                raise Unauthenticated("The session has ended; sign in.")
            await _refuse_revoked(connection, holder.name, read_at)
        token = self._tokens.issue(holder.name, MANAGEMENT, holder.role, issued_at=read_at)
        self._remember(keys[-1], token)
        return token

    async def token_for(self, name: str, password: str, origin: Origin) -> str:
        """Return a token for a client that sends its password with each request; raises like `log_in`.

        While the token is valid, the same name and password get it again without the slow check of the password.
        Whatever revokes the user's tokens revokes this one as well.
        """
        digest = blake2b(f"{name}:{password}".encode(), key=self._digest_key).digest()
        token = self._cached_tokens.get(digest)
        if token is None or not self._is_good(token):
            record, read_at = await self._check(name, password, origin)
            async with self._engine.begin() as connection:
                await _refuse_revoked(connection, name, read_at)
                if not record.is_known_network:  # such a client keeps no token, so its network identifies it
                    await self._remember_device(connection, name, origin, record)
            token = self._tokens.issue(name, MANAGEMENT, record.role, issued_at=read_at)
            self._remember(digest, token)
        return token

    def _is_good(self, token: str) -> bool:
        try:
            self._tokens.verify(token, MANAGEMENT)
        except Unauthenticated:
            return False
        return True

    def _remember(self, digest: bytes, token: str) -> None:
        self._cached_tokens.pop(digest, None)
        self._cached_tokens[digest] = token
        if len(self._cached_tokens) > CACHED_TOKENS_MAXIMUM:
            del self._cached_tokens[next(iter(self._cached_tokens))]

    async def _check(self, name: str, password: str, origin: Origin) -> tuple[LoginRecord, float]:
        """Return the data of the user with this password, and the time before it was read."""
        device_hash, network = token_digest(origin.device_token or ""), network_of(origin.address or "")
        with self.outcomes.counting(), self._refusals.refusals(f"login of user {name}", origin.address):
            read_at = self._tokens.now()
            async with self._engine.connect() as connection:
                record = await store.find_login(connection, name, device_hash, network)
            async with self._guesses.charged(name, origin, record):
                if not await self._is_right(password, record, name, network) or record is None:
                    raise Unauthenticated("The user name or the password is wrong.")
        return record, read_at

    async def _is_right(self, password: str, record: LoginRecord | None, name: str, network: str) -> bool:
        if record is not None and record.has_device:
            return await self._passwords.matches(name, password, record.password_hash, is_known=True)
        stored = None if record is None else record.password_hash
        return await self._passwords.matches(network, password, stored, is_known=False)

    async def _remember_device(self, connection: Connection, name: str, origin: Origin, record: LoginRecord) -> str:
        """Return the device token to use from now on: the sent token if it is valid, otherwise a new one."""
        network = network_of(origin.address or "")
        if record.has_device and origin.device_token is not None:
            await renew_device(connection, token_digest(origin.device_token), network)
            return origin.device_token
        device_token = secrets.token_hex(DEVICE_TOKEN_BYTES)
        await insert_device(connection, name, token_digest(device_token), network)
        await trim_devices(connection, name)
        return device_token

    def _pair(self, name: str, role: Role, read_at: float, refresh_token: str) -> TokenPair:
        token = self._tokens.issue(name, MANAGEMENT, role, issued_at=read_at)
        return TokenPair(token, refresh_token, self._tokens.lifetime_seconds)

    async def refresh(self, refresh_token: str, address: str | None) -> TokenPair:
        """Return the next pair of tokens; raises `Unauthenticated` for an unknown, used or expired token.

        A token used twice was stolen, or its successor was: this revokes its family and the user's access tokens.
        """
        read_at, used = self._tokens.now(), _read_refresh_token(refresh_token)
        text, following = _new_refresh_token(used.family or uuid4())
        async with self._engine.begin() as connection:
            found = await store.renew_refresh_token(connection, used, following.token_hash, REFRESH_SECONDS, address)
            if found is not None and not found.is_replay:
                await _refuse_revoked(connection, found.name, read_at)
                return self._pair(found.name, found.role, read_at, text)
            if found is not None:
                await revoke_tokens(connection, found.name)
        if found is not None:
            logger.warning("a refresh token of user %s was reused from %s: its family was revoked", found.name, address)
            self._revocations.announce()
        raise Unauthenticated("The refresh token is no longer valid; log in.")

    async def log_out(self, name: str) -> None:
        """Revoke every token of a user on every node."""
        async with self._engine.begin() as connection:
            await self._end_tokens(connection, name)
        self._revocations.announce()

    async def change(self, name: str, change: UserChange) -> None:
        """Set a user's password or role, and revoke the user's tokens; raises `NotFound`."""
        values: dict[str, str] = {"role": change.role} if change.role else {}
        if change.password is not None:
            values["password_hash"] = await self._passwords.hash_aside(name, change.password)
        if not values:
            raise Invalid("Set a password or a role.")
        async with self._engine.begin() as connection:
            if not await store.update_user(connection, name, values):
                raise NotFound(f"There is no user {name!r}.")
            await self._end_tokens(connection, name, devices=change.password is not None)
        await self._end_again(name, devices=change.password is not None)

    async def change_password(self, name: str, change: PasswordChange, origin: Origin) -> None:
        """Set a user's password and revoke the user's tokens; raises `Unauthenticated` if the old one is wrong."""
        await self._check(name, change.old, origin)
        await self.change(name, UserChange(password=change.new))

    async def _end_again(self, name: str, *, devices: bool = False) -> None:
        """Revoke tokens again after the change: a concurrent login may have issued some from the old data."""
        async with self._engine.begin() as connection:
            await self._end_tokens(connection, name, devices=devices)
        self._revocations.announce()

    async def _end_tokens(self, connection: Connection, name: str, *, devices: bool = False) -> None:
        if devices:
            await delete_devices(connection, name)
        await store.delete_refresh_tokens(connection, name)
        await revoke_tokens(connection, name)

    async def create(self, user: NewUser) -> None:
        """Add a user; raises `Conflict` when the name is taken."""
        hashed = await self._passwords.hash_aside(user.name, user.password)
        async with self._engine.begin() as connection:
            if not await store.insert_user(connection, user.name, hashed, user.role):
                raise Conflict(f"A user {user.name!r} already exists.")

    async def list(self, after: str | None, limit: int) -> Page[User]:
        """Return one page of users, by name."""
        async with self._engine.connect() as connection:
            users = await store.list_users(connection, after, limit + 1)
        return page_of(users, limit, lambda user: user.name)

    async def delete(self, name: str) -> None:
        """Delete a user and revoke the user's tokens on every node; raises `NotFound`."""
        async with self._engine.begin() as connection:
            if not await store.delete_user(connection, name):
                raise NotFound(f"There is no user {name!r}.")
            await revoke_tokens(connection, name)
        await self._end_again(name)


def _new_refresh_token(family: UUID) -> tuple[str, RefreshToken]:
    """Return a new token, which begins with its family, and its stored form."""
    text = f"{family.hex}.{secrets.token_urlsafe(32)}"
    return text, RefreshToken(family, token_digest(text))


def session_digest(session: str) -> bytes:
    """Return the stored hash of a browser session; no refresh token has it, so neither can be used as the other."""
    return token_digest(f"session {session}")


def _read_refresh_token(text: str) -> RefreshToken:
    family = text.partition(".")[0]
    return RefreshToken(UUID(family) if _FAMILY.fullmatch(family) else None, token_digest(text))


async def _refuse_revoked(connection: Connection, name: str, read_at: float) -> None:
    if await was_revoked_since(connection, name, read_at):
        raise Unauthenticated("The user's tokens have just been revoked; log in again.")


async def create_first_administrator(connection: Connection, password: str) -> None:
    """Create the user `admin`."""
    await store.insert_user(connection, FIRST_ADMINISTRATOR, Passwords().hash(password), "administrator")


async def reset_password(connection: Connection, name: str, password: str) -> None:
    """Set a user's password without the old one, and revoke the user's tokens; raises `NotFound`."""
    if not await store.update_user(connection, name, {"password_hash": Passwords().hash(password)}):
        raise NotFound(f"There is no user {name!r}.")
    await delete_devices(connection, name)
    await store.delete_refresh_tokens(connection, name)
    await revoke_tokens(connection, name)


def read_password(setting: str, path: Path) -> str:
    """Return the password from a file; raises `ConfigurationError`, which names the setting."""
    try:
        password = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{setting}: {error}") from None
    if len(password) < PASSWORD_LENGTH_MINIMUM:
        raise ConfigurationError(f"{setting}: the password must have at least {PASSWORD_LENGTH_MINIMUM} characters")
    return password
