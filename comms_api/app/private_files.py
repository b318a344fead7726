"""Files that a node creates on its first start: written atomically and, by default, readable by their owner only."""

import os
import secrets
from pathlib import Path

from comms_api.errors import ConfigurationError
from comms_api.settings import Settings
from comms_api.tokens.secret import Secret

SECRET_BYTES = 32
PASSWORD_BYTES = 18
PRIVATE, PUBLIC = 0o600, 0o644
ADMINISTRATOR_PASSWORD = "admin.password"  # noqa: S105 - the name of its file


def write_new(path: Path, content: bytes, mode: int = PRIVATE) -> None:
    """Write a new file unless it exists; one of several concurrent writers wins."""
    draft = _write_draft(path, content, mode)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def replace_private(path: Path, content: bytes) -> None:
    """Replace a file; only its owner can read the new one."""
    _write_draft(path, content, PRIVATE).replace(path)


def _write_draft(path: Path, content: bytes, mode: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)  # the umask does not apply
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return draft


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
    path = settings.secret_path
    try:
        if not path.exists():
            write_new(path, secrets.token_hex(SECRET_BYTES).encode())
        previous = settings.previous_secret_file
        return Secret(path.read_bytes().strip(), previous.read_bytes().strip() if previous else None)
    except OSError as error:
        raise ConfigurationError(f"secret_file: {error}") from None
