"""Files that are written atomically and, by default, are readable by their owner only."""

import os
from pathlib import Path

PRIVATE, PUBLIC = 0o600, 0o644


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
