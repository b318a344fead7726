"""An open log file, identified by its content and not by its name."""

import os
from hashlib import blake2b
from pathlib import Path, PurePath

import msgspec

from comms_api.client.log_files.lines import SAMPLE_BYTES, Encoding, detect_encoding
from comms_api.client.spool.model import FilePosition
from comms_api.text.printable import as_text

DIGEST_BYTES = 1024
_SUFFIXES = {".gz", ".tgz", ".bz2", ".xz", ".lzma", ".zst", ".lz4", ".z", ".zip", ".7z", ".br", ".rar"}
_MAGIC = (
    b"\x1f\x8b",  # gzip
    b"\x1f\x9d",  # compress
    b"BZh",  # bzip2
    b"\xfd7zXZ\x00",
    b"\x28\xb5\x2f\xfd",  # zstd
    b"\x04\x22\x4d\x18",  # lz4
    b"PK\x03\x04",  # zip
    b"7z\xbc\xaf\x27\x1c",
)


class OpenFile(msgspec.Struct, eq=False):
    """An open file; `path` is its path as text at the time it was opened."""

    path: str
    folder: Path
    inode: int
    descriptor: int
    closes_at: float = 0.0
    """The monotonic time at which to close it after a rotation."""
    read_status: tuple[int, int] | None = None
    """Its `status` when it was last read to its end."""
    original: FilePosition | None = None
    """The longer content that begins with this file's content: this file may be an unfinished copy of it."""
    copied_bytes: int = 0
    """The size of the unfinished copy."""
    copied_at: float = 0.0
    """The monotonic time at which `copied_bytes` last changed."""

    def status(self) -> tuple[int, int]:
        """Return the size in bytes and the time of the last change in nanoseconds."""
        status = os.fstat(self.descriptor)
        return status.st_size, status.st_mtime_ns

    def position_at(self, offset: int, *, is_cut: bool = False) -> FilePosition:
        """Return the reading position at `offset`, with digests of the content before it."""
        opening = _digest(os.pread(self.descriptor, SAMPLE_BYTES, 0).partition(b"\n")[0])
        return FilePosition(
            as_text(str(self.folder)), self.inode, self.path, offset, opening, self.digest(offset), is_cut
        )

    def is_file_of(self, position: FilePosition) -> bool:
        """Return whether a position is in this file, regardless of the content."""
        return (as_text(str(self.folder)), self.inode) == (position.folder, position.inode)

    def digest(self, offset: int) -> bytes:
        """Return a digest of the first bytes and of those before `offset`."""
        length = min(offset, DIGEST_BYTES)
        first = os.pread(self.descriptor, length, 0)
        return _digest(first + os.pread(self.descriptor, length, offset - length))

    def begins_with_content_of(self, position: FilePosition) -> bool:
        """Return whether this file begins with the content that was read up to a position, in whatever file."""
        is_long_enough = 0 < position.offset <= os.fstat(self.descriptor).st_size
        return is_long_enough and self.digest(position.offset) == position.digest

    def encoding(self) -> Encoding:
        """Return the file's encoding."""
        return detect_encoding(os.pread(self.descriptor, SAMPLE_BYTES, 0))

    def is_compressed(self) -> bool:
        """Return whether the file begins like a compressed file."""
        return os.pread(self.descriptor, len(max(_MAGIC, key=len)), 0).startswith(_MAGIC)


def open_file(path: str) -> OpenFile | None:
    """Open a file, or return None if that fails."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    folder = Path(path).resolve().parent
    return OpenFile(as_text(path), folder, os.fstat(descriptor).st_ino, descriptor)


def has_compressed_name(path: str) -> bool:
    """Return whether a path has the suffix of a compressed file."""
    return PurePath(path).suffix.lower() in _SUFFIXES


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()
