"""Profiles: logins that outlive a command, each with its server, its user and its pinned certificate.

A profile is a folder that only its owner can read: `profile.json` has the tokens, and `ca.pem` the pinned certificate.
"""

import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import msgspec

from comms_api.errors import CommsError, ConfigurationError
from comms_api.management_client.client import Refused
from comms_api.management_client.logins import Ask, Password, TokenPair, refresh
from comms_api.management_client.state_folder import find_state_folder
from comms_api.private_files import replace_private

FOLDER = "profiles"
DEFAULT = "default"
EXPIRES_SOON_SECONDS = 10.0
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")


class SessionEnded(CommsError):
    """The refresh token of a profile is no longer valid."""


class Profile(msgspec.Struct, frozen=True):
    """The content of a profile's file; without a token, the user has logged out."""

    url: str
    user: str
    token: str = ""
    refresh_token: str = ""
    expires_at: datetime = datetime.fromtimestamp(0, UTC)

    def renewed(self, tokens: TokenPair) -> "Profile":
        """Return the profile with the tokens of a login."""
        expires_at = datetime.fromtimestamp(time.time() + tokens.expires_in, UTC)
        return Profile(self.url, self.user, tokens.token, tokens.refresh_token, expires_at)


class ProfileFolder(msgspec.Struct, frozen=True):
    """The folder of a profile."""

    path: Path

    @property
    def name(self) -> str:
        """The profile's name."""
        return self.path.name

    @property
    def ca(self) -> Path | None:
        """The certificate that the profile trusts, or None for the system's authorities."""
        path = self.ca_path
        return path if path.exists() else None

    @property
    def ca_path(self) -> Path:
        """The place of the pinned certificate."""
        return self.path / "ca.pem"

    def find(self) -> Profile | None:
        """Return the profile, or None if there is none; raises `ConfigurationError` if its file is damaged."""
        file = self.path / "profile.json"
        try:
            return msgspec.json.decode(file.read_bytes(), type=Profile)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, msgspec.MsgspecError) as error:
            raise ConfigurationError(f"{file}: {error}; delete it and log in again") from None

    def write(self, profile: Profile) -> None:
        """Store the profile."""
        replace_private(self.path / "profile.json", msgspec.json.encode(profile))

    def begin(self, profile: Profile, certificates: bytes | None) -> None:
        """Store a new profile, and the certificates to trust (PEM), or None for the system's authorities."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.ca_path.unlink(missing_ok=True)
            if certificates is not None:
                replace_private(self.ca_path, certificates)
            self.write(profile)
        except OSError as error:
            raise ConfigurationError(f"the profile cannot be stored: {error}; set XDG_STATE_HOME") from None

    def delete(self) -> None:
        """Forget the profile."""
        shutil.rmtree(self.path, ignore_errors=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let no other process renew the tokens during the block."""
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


class StoredLogin:
    """The login of a profile. A refresh token is valid once, so one process at a time uses and replaces it."""

    def __init__(self, folder: ProfileFolder) -> None:
        self._folder = folder

    def find_token(self, ask: Ask, refused: str | None) -> str:
        """Return the stored token, or a new one if it expires soon or is refused."""
        profile = self._read()
        if self._is_good(profile, refused):
            return profile.token
        with self._folder.locked():
            profile = self._read()  # another process may have renewed it
            if not self._is_good(profile, refused):
                profile = self._renew(ask, profile)
        return profile.token

    def _is_good(self, profile: Profile, refused: str | None) -> bool:
        return profile.token != refused and profile.expires_at.timestamp() > time.time() + EXPIRES_SOON_SECONDS

    def _renew(self, ask: Ask, profile: Profile) -> Profile:
        try:
            renewed = profile.renewed(refresh(ask, profile.refresh_token))
        except Refused as error:
            if error.status != httpx.codes.UNAUTHORIZED:
                raise
            raise SessionEnded(f"the session has ended: {error.detail} Log in again: {self._command}") from None
        self._folder.write(renewed)
        return renewed

    def _read(self) -> Profile:
        profile = self._folder.find()
        if profile is None or not profile.token:
            raise ConfigurationError(f"not logged in: {self._command}, or name a --password-file")
        return profile

    @property
    def _command(self) -> str:
        return "comms-api login" + ("" if self._folder.name == DEFAULT else f" --profile {self._folder.name}")


class FirstLogin(msgspec.Struct, frozen=True):
    """A login with a password that stores the tokens, and the certificates to trust (PEM), in a profile."""

    folder: ProfileFolder
    profile: Profile
    password: Password
    certificates: bytes | None

    def find_token(self, ask: Ask, _refused: str | None) -> str:
        """Log in, store the profile, and return the token."""
        tokens = self.password.log_in(ask)
        self.folder.begin(self.profile.renewed(tokens), self.certificates)
        return tokens.token


def find_profile(name: str) -> ProfileFolder:
    """Return the folder of a profile, which need not exist; raises `ConfigurationError` if the name is not a name."""
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"{name!r} cannot be the name of a profile: use letters, digits, '.', '_' and '-'")
    return ProfileFolder(_profiles() / name)


def list_profiles() -> list[ProfileFolder]:
    """Return the profiles that exist, by name."""
    folders = map(ProfileFolder, sorted(_profiles().glob("*/")))
    return [folder for folder in folders if _NAME.fullmatch(folder.name) and folder.find() is not None]


def _profiles() -> Path:
    folder = find_state_folder()
    if folder is None:
        raise ConfigurationError("the user has no home for profiles: set XDG_STATE_HOME")
    return folder / FOLDER
