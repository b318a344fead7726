"""Users as administrators see them."""

from datetime import datetime
from typing import Annotated

import msgspec

from comms_api.text.printable import NO_DOTS
from comms_api.tokens.issuer import Role

PASSWORD_LENGTH_MINIMUM = 12
PASSWORD_LENGTH_MAXIMUM = 256

UserName = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=rf"\A{NO_DOTS}[A-Za-z0-9._@-]+\Z")]
Password = Annotated[str, msgspec.Meta(min_length=PASSWORD_LENGTH_MINIMUM, max_length=PASSWORD_LENGTH_MAXIMUM)]


class NewUser(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A user to create; a service's name is the server target that it polls for."""

    name: UserName
    password: Password
    role: Role


class User(msgspec.Struct, frozen=True):
    """A person or a service; the password is never shown."""

    name: str
    role: Role
    created_at: datetime


class CurrentUser(msgspec.Struct, frozen=True):
    """The user who sends a request."""

    name: str
    role: str


class UserChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An administrator's change of a user; either field revokes the user's tokens."""

    password: Password | None = None
    role: Role | None = None


class PasswordChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A user's new password, and the old one as proof."""

    old: str
    new: Password


class Refresh(msgspec.Struct, frozen=True):
    """A request for a new pair of tokens; the refresh token is valid once."""

    refresh_token: str


class TokenPair(msgspec.Struct, frozen=True, omit_defaults=True):
    """A token for the API, valid for `expires_in` seconds, and a refresh token for the next pair."""

    token: str
    refresh_token: str
    expires_in: int
    device_token: str | None = None
    """Returned by a login with a password; a login that sends it has its own limit of failures."""


class BrowserSession(msgspec.Struct, frozen=True):
    """A browser's session, and the device token for its next login; both belong in cookies that scripts cannot read."""

    text: str
    device_token: str


class Origin(msgspec.Struct, frozen=True):
    """The source of a login: its address, and the device token if the client sends one."""

    address: str | None
    device_token: str | None = None


class LoginRecord(msgspec.Struct, frozen=True):
    """The data of a user, and of the client that logs in."""

    password_hash: str
    role: Role
    has_device: bool
    """Whether the device has logged in before."""

    is_known_network: bool
    """Whether the user has logged in from this network before."""
