"""The secrets that a node creates on its first start."""

import secrets
from pathlib import Path

from comms_api.errors import ConfigurationError
from comms_api.private_files import write_new
from comms_api.settings import Settings
from comms_api.tokens.secret import Secret

SECRET_BYTES = 32
PASSWORD_BYTES = 18
ADMINISTRATOR_PASSWORD = "admin.password"  # noqa: S105 - the name of its file


def new_password() -> str:
    """Return a random password."""
    return secrets.token_urlsafe(PASSWORD_BYTES)


def administrator_password_file(settings: Settings) -> Path:
    """Return the file with the first administrator's password: the operator's file, or one that is generated if needed.

    The file is written before the administrator is stored, so a crash in between loses no password.
    """
    if settings.admin_password_file is not None:
        return settings.admin_password_file
    path = settings.data_dir / ADMINISTRATOR_PASSWORD
    try:
        write_new(path, new_password().encode())
    except OSError as error:
        raise ConfigurationError(f"data_dir: {error}") from None
    return path


def load_secret(settings: Settings) -> Secret:
    """Return the node secret, and create it on the first start; raises `ConfigurationError` if it is unreadable."""
    try:
        if not settings.secret_path.exists():
            write_new(settings.secret_path, secrets.token_hex(SECRET_BYTES).encode())
    except OSError as error:
        raise ConfigurationError(f"secret_file: {error}") from None
    return read_secret(settings)


def read_secret(settings: Settings) -> Secret:
    """Return the node secret; raises `ConfigurationError` if it is missing or unreadable."""
    previous = settings.previous_secret_file
    try:
        return Secret(settings.secret_path.read_bytes().strip(), previous.read_bytes().strip() if previous else None)
    except OSError as error:
        raise ConfigurationError(f"secret_file: {error}") from None
