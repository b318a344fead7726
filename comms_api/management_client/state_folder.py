"""The folder for the profiles and device tokens of the command line (XDG Base Directory)."""

import os
from pathlib import Path

NAME = "comms-api"


def find_state_folder() -> Path | None:
    """Return the user's state folder of this program, or None for a user without a home."""
    folder = Path(os.environ.get("XDG_STATE_HOME", ""))
    if folder.is_absolute():
        return folder / NAME
    try:
        return Path.home() / ".local" / "state" / NAME
    except RuntimeError:  # the user has no home
        return None
