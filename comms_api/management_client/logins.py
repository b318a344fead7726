"""The ways to get a token for the management API."""

from collections.abc import Callable
from typing import Protocol

import httpx
import msgspec

from comms_api.management_client.device import Device

Ask = Callable[..., httpx.Response]
"""Sends a request without a token and returns its successful answer; raises `CommsError`."""


class TokenPair(msgspec.Struct, frozen=True):
    """The answer to a login: a token, its lifetime in seconds, and a refresh token that is valid once."""

    token: str
    refresh_token: str
    expires_in: float
    device_token: str | None = None
    """A node of the previous release sends none."""


class _LoginAnswer(msgspec.Struct, frozen=True):
    data: TokenPair


class Login(Protocol):
    """A way to get tokens."""

    def find_token(self, ask: Ask, refused: str | None) -> str:
        """Return a token; `refused` is one that the server no longer accepts."""


class Password(msgspec.Struct, frozen=True):
    """A user's name and password; with a device, wrong passwords of others cannot lock this client out."""

    user: str
    password: str
    device: Device = Device()

    def find_token(self, ask: Ask, _refused: str | None) -> str:
        """Log in, and return the token."""
        return self.log_in(ask).token

    def log_in(self, ask: Ask) -> TokenPair:
        """Log in."""
        known = self.device.find_token()
        headers = {} if known is None else {"Device-Token": known}
        answer = ask("POST", "/security/user/authenticate", auth=(self.user, self.password), headers=headers)
        tokens = read_tokens(answer)
        if tokens.device_token:
            self.device.keep(tokens.device_token)
        return tokens


def refresh(ask: Ask, refresh_token: str) -> TokenPair:
    """Return the next pair of tokens."""
    return read_tokens(ask("POST", "/security/user/refresh", json={"refresh_token": refresh_token}))


def read_tokens(answer: httpx.Response) -> TokenPair:
    """Return the tokens of an answer to a login."""
    return msgspec.json.decode(answer.content, type=_LoginAnswer).data
