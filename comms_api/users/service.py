"""Log users in, make and remove them, and make the first."""

import secrets
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from comms_api.agents.service import REVOCATIONS_CHANNEL
from comms_api.agents.store import revoke_tokens
from comms_api.database.listener import Notifier
from comms_api.errors import ConfigurationError, Conflict, NotFound, Unauthenticated
from comms_api.http.pages import Page, page_of
from comms_api.tokens.issuer import MANAGEMENT, Tokens
from comms_api.users import store
from comms_api.users.model import PASSWORD_LENGTH_MINIMUM, NewUser, User
from comms_api.users.passwords import Passwords

FIRST_ADMINISTRATOR = "admin"


class Users:
    """The users of the management API."""

    def __init__(self, engine: AsyncEngine, tokens: Tokens, notifier: Notifier) -> None:
        """Take who tells the nodes of tokens that end."""
        self._engine = engine
        self._tokens = tokens
        self._notifier = notifier
        self._passwords = Passwords()

    async def log_in(self, name: str, password: str) -> str:
        """Return a token for the management API; raises `Unauthenticated`, the same for a wrong name or password."""
        async with self._engine.connect() as connection:
            found = await store.find_password(connection, name)
        stored, role = found or (None, "")
        if not await self._passwords.matches(password, stored):
            raise Unauthenticated("The user name or the password is wrong.")
        return self._tokens.issue(name, MANAGEMENT, role)

    async def create(self, user: NewUser) -> None:
        """Add a user; raises `Conflict` when the name is taken."""
        hashed = await self._passwords.hash_aside(user.password)
        async with self._engine.begin() as connection:
            if not await store.insert_user(connection, user.name, hashed, user.role):
                raise Conflict(f"A user {user.name!r} exists.")

    async def list(self, after: str | None, limit: int) -> Page[User]:
        """Return one page of users, by name."""
        async with self._engine.connect() as connection:
            users = await store.list_users(connection, after, limit + 1)
        return page_of(users, limit, lambda user: user.name)

    async def delete(self, name: str) -> None:
        """Remove a user and end the user's tokens on every node; raises `NotFound`."""
        async with self._engine.begin() as connection:
            if not await store.delete_user(connection, name):
                raise NotFound(f"There is no user {name!r}.")
            await revoke_tokens(connection, name)
        self._notifier.notify(REVOCATIONS_CHANNEL)


async def create_first_administrator(connection: AsyncConnection, password_file: Path | None) -> str | None:
    """Make `admin` when there is no user at all; return its password if it was made up here, to be shown once."""
    if not await store.is_empty(connection):
        return None
    given = _read_password(password_file)
    password = given or secrets.token_urlsafe(18)
    await store.insert_user(connection, FIRST_ADMINISTRATOR, Passwords().hash(password), "administrator")
    return None if given else password


def _read_password(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        password = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"admin_password_file: {error}") from None
    if len(password) < PASSWORD_LENGTH_MINIMUM:
        raise ConfigurationError(f"admin_password_file: needs at least {PASSWORD_LENGTH_MINIMUM} characters")
    return password
