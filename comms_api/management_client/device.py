"""The token that identifies this user's command line to a server, so that guesses of others cannot lock it out."""

import re
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import msgspec

from comms_api.management_client.state_folder import find_state_folder
from comms_api.private_files import replace_private

FOLDER = "devices"
_TOKEN = re.compile(r"[0-9a-f]{32,128}")


class Device(msgspec.Struct, frozen=True):
    """The file of a token, for one server and user, readable by its owner only. A user without a home has no file."""

    path: Path | None = None

    def find_token(self) -> str | None:
        """Return the token from the server, or None if no readable one exists."""
        if self.path is None:
            return None
        try:
            token = self.path.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None
        return token if _TOKEN.fullmatch(token) else None

    def keep(self, token: str) -> None:
        """Write the token; if that fails, the next login has no token, but works as well."""
        if self.path is not None and token != self.find_token():
            with suppress(OSError):
                replace_private(self.path, token.encode())


def device_of(url: str, user: str) -> Device:
    """Return the device of a user at a server, in the user's state folder."""
    folder = find_state_folder()
    name = sha256(f"{url}\0{user}".encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return Device(folder / FOLDER / name if folder is not None else None)
