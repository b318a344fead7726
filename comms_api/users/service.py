"""Log users in, and make the first of them."""

import secrets
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from comms_api.errors import ConfigurationError, Unauthenticated
from comms_api.tokens.issuer import MANAGEMENT, Tokens
from comms_api.users import store
from comms_api.users.passwords import Passwords

FIRST_ADMINISTRATOR = "admin"
ADMINISTRATOR = "administrator"
PASSWORD_LENGTH_MINIMUM = 12


class Users:
    """The users of the management API."""

    def __init__(self, engine: AsyncEngine, tokens: Tokens) -> None:
        """Take the engine and the tokens."""
        self._engine = engine
        self._tokens = tokens
        self._passwords = Passwords()

    async def log_in(self, name: str, password: str) -> str:
        """Return a token for the management API; raises `Unauthenticated`, the same for a wrong name or password."""
        async with self._engine.connect() as connection:
            stored = await store.find_password_hash(connection, name)
        if not await self._passwords.matches(password, stored):
            raise Unauthenticated("The user name or the password is wrong.")
        return self._tokens.issue(name, MANAGEMENT)


async def create_first_administrator(connection: AsyncConnection, password_file: Path | None) -> str | None:
    """Make `admin` when there is no user at all; return its password if it was made up here, to be shown once."""
    if not await store.is_empty(connection):
        return None
    given = _read_password(password_file)
    password = given or secrets.token_urlsafe(18)
    await store.insert_user(connection, FIRST_ADMINISTRATOR, Passwords().hash(password), ADMINISTRATOR)
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
