"""Files that are written atomically and, by default, are readable by their owner only."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

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


class NewFile(NamedTuple):
    """The content and the mode of a file that is to be written."""

    path: Path
    content: bytes
    mode: int = PRIVATE


@contextmanager
def replacing(files: list[NewFile]) -> Iterator[None]:
    """Write the files before the block, and give them their names after it; a block that fails changes no file."""
    drafts: list[Path] = []
    try:
        drafts.extend(_write_draft(*file) for file in files)
        yield
        for draft, file in zip(drafts, files, strict=True):
            draft.replace(file.path)
    finally:
        for draft in drafts:
            draft.unlink(missing_ok=True)


@contextmanager
def writing_private(path: Path) -> Iterator[IO[bytes]]:
    """Open a new file for the block and give it its name after it, on the disk; a block that fails leaves no file."""
    draft = _draft_of(path)
    try:
        with _open_draft(draft) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        draft.unlink(missing_ok=True)


def _draft_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")


def _open_draft(draft: Path) -> IO[bytes]:
    return os.fdopen(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC, PRIVATE), "w+b")


def _write_draft(path: Path, content: bytes, mode: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = _draft_of(path)
    with _open_draft(draft) as file:
        os.fchmod(file.fileno(), mode)  # the umask does not apply
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return draft
