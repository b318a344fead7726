"""Files that a node makes on its first start: written whole or not at all, for their owner alone."""

import os
import secrets
from pathlib import Path

from comms_api.errors import ConfigurationError
from comms_api.settings import Settings
from comms_api.tokens.secret import Secret

SECRET_BYTES = 32


def write_private(path: Path, content: bytes) -> None:
    """Write a new file that only its owner reads, unless it exists; of several writers one wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def load_secret(settings: Settings) -> Secret:
    """Return the node secret, made on the first start; raises `ConfigurationError` when it cannot be read."""
    path = settings.secret_path
    try:
        if not path.exists():
            write_private(path, secrets.token_hex(SECRET_BYTES).encode())
        previous = settings.previous_secret_file
        return Secret(path.read_bytes().strip(), previous.read_bytes().strip() if previous else None)
    except OSError as error:
        raise ConfigurationError(f"secret_file: {error}") from None
