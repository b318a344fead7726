"""The archive of a backup: a ZIP file whose manifest has the version, the origin and the checksum of every member.

Nothing is ever extracted to a path that an archive contains: its members are read by names that are fixed here.
"""

import hashlib
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import msgspec
import zstandard

from comms_api.backup.files import FILE_BYTES_MAXIMUM, FILE_NAMES
from comms_api.errors import CommsError
from comms_api.private_files import writing_private

FORMAT = 1
"""Changes when an earlier release could not restore an archive correctly."""

MANIFEST = "manifest.json"
SETTINGS = "settings.toml"
SECTIONS = ("pre-data", "data", "post-data")
"""The parts of the database, in the order in which they are restored (PostgreSQL manual, pg_dump, `--section`)."""

PIECE_BYTES = 256 * 1024
_FAULTS = (BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, struct.error, zstandard.ZstdError)
"""The errors of damaged or unusual archives."""

Watch = Callable[[Iterable[bytes], int | None], Iterator[bytes]]
"""Passes pieces on while it shows the progress; the number is their total size, if known."""


def section_name(section: str) -> str:
    """Return the member of a part of the database: SQL, compressed by zstd."""
    return f"database/{section}.sql.zst"


def file_name(name: str) -> str:
    """Return the member of a file of the node."""
    return f"files/{name}"


_SECTION_NAMES = {section_name(section) for section in SECTIONS}
_NAMES = {SETTINGS, *_SECTION_NAMES, *map(file_name, FILE_NAMES)}


class Member(msgspec.Struct, frozen=True):
    """The size of a member, after decompression as well, and its checksum."""

    size_bytes: int
    content_bytes: int
    sha256: str


class Origin(msgspec.Struct, frozen=True):
    """The database of a backup."""

    revision: str
    """The revision of its schema."""

    schema: str
    """The name of its schema: `public`, as a rule."""

    server_major: int
    cluster: str
    """The system identifier of the PostgreSQL cluster, which numbers the transactions."""

    next_transaction: int


class Manifest(msgspec.Struct, frozen=True):
    """The contents of a backup, and what restoring it needs."""

    format: int
    release: str
    created_at: datetime
    programs_major: int
    """The major version of the pg_dump that wrote the SQL."""

    origin: Origin
    members: Mapping[str, Member]


class _Format(msgspec.Struct, frozen=True):
    """The part of the manifest that every format has."""

    format: int
    release: str


def write_archive(
    path: Path, manifest: Manifest, sections: Mapping[str, Iterable[bytes]], contents: Mapping[str, bytes], watch: Watch
) -> Manifest:
    """Write a new archive and verify it; return the manifest with the members. Raises `CommsError`."""
    if path.exists():
        raise CommsError(f"{path} exists: choose another name, or remove it first")
    try:
        with writing_private(path) as file:
            with ZipFile(file, "w", ZIP_STORED) as zip_file:
                members = {
                    section_name(name): _add_section(zip_file, name, watch(sql, None)) for name, sql in sections.items()
                }
                members |= {name: _write(zip_file, name, [content]) for name, content in contents.items()}
                manifest = msgspec.structs.replace(manifest, members=members)
                _write(zip_file, MANIFEST, [msgspec.json.format(msgspec.json.encode(manifest))])
            with ZipFile(file) as zip_file:
                Archive(path, zip_file, os.fstat(file.fileno()).st_size).verify(watch)
    except OSError as error:
        raise CommsError(f"cannot write {path}: {error}") from None
    return manifest


def _add_section(zip_file: ZipFile, section: str, sql: Iterable[bytes]) -> Member:
    compressor = zstandard.ZstdCompressor(level=3).compressobj()
    content_bytes = 0

    def compress() -> Iterator[bytes]:
        nonlocal content_bytes
        for piece in sql:
            content_bytes += len(piece)
            yield compressor.compress(piece)
        yield compressor.flush()

    member = _write(zip_file, section_name(section), compress())
    return msgspec.structs.replace(member, content_bytes=content_bytes)


def _write(zip_file: ZipFile, name: str, pieces: Iterable[bytes]) -> Member:
    digest, size = hashlib.sha256(), 0
    with zip_file.open(name, "w", force_zip64=True) as member:
        for piece in pieces:
            member.write(piece)
            digest.update(piece)
            size += len(piece)
    return Member(size, size, digest.hexdigest())


class Archive:
    """Reads an archive; raises `CommsError` if it is damaged."""

    def __init__(self, path: Path, zip_file: ZipFile, size_bytes: int) -> None:
        self._path = path
        self._zip = zip_file
        with _damage_named(path):
            self.manifest = _read_checked(zip_file, size_bytes)

    def verify(self, watch: Watch) -> None:
        """Read every member and compare its checksum."""
        total = sum(member.size_bytes for member in self.manifest.members.values())
        for _ in watch(self._compare(), total):
            pass

    def read(self, name: str) -> bytes:
        """Return a small member."""
        with _damage_named(self._path):
            return self._zip.read(name)

    def files(self) -> dict[str, bytes]:
        """Return the node's files by name."""
        names = (name for name in FILE_NAMES if file_name(name) in self.manifest.members)
        return {name: self.read(file_name(name)) for name in names}

    def sql(self, section: str) -> Iterator[bytes]:
        """Yield a part of the database."""
        with _damage_named(self._path), self._zip.open(section_name(section)) as member:
            yield from zstandard.ZstdDecompressor().read_to_iter(member, read_size=PIECE_BYTES, write_size=PIECE_BYTES)

    @property
    def sql_bytes(self) -> int:
        """The size of the SQL of the whole database."""
        return sum(self.manifest.members[name].content_bytes for name in _SECTION_NAMES)

    def _compare(self) -> Iterator[bytes]:
        for name, expected in self.manifest.members.items():
            digest = hashlib.sha256()
            with _damage_named(self._path), self._zip.open(name) as member:
                while piece := member.read(PIECE_BYTES):
                    digest.update(piece)
                    yield piece
                if digest.hexdigest() != expected.sha256:
                    raise BadZipFile(f"the checksum of {name} is wrong")


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open an archive and check its manifest and the list of its members; raises `CommsError`."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise CommsError(f"cannot read {path}: {error.strerror}") from None
    with file:
        with _damage_named(path):
            zip_file = ZipFile(file)
        yield Archive(path, zip_file, os.fstat(file.fileno()).st_size)


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except _FAULTS as error:
        raise CommsError(f"{path} is damaged, or is no backup of comms-api: {error}") from None


def _read_checked(zip_file: ZipFile, size_bytes: int) -> Manifest:
    """Return the manifest of a file of a size; raises an error of `_FAULTS`, and `CommsError` for another format."""
    members = {info.filename: info.file_size for info in zip_file.infolist()}
    if len(members) != len(zip_file.infolist()) or not members.keys() <= _NAMES | {MANIFEST}:
        raise BadZipFile("it has members that a backup does not have")
    if any(info.compress_type != ZIP_STORED for info in zip_file.infolist()) or sum(members.values()) > size_bytes:
        raise BadZipFile("its members are not stored as they are in a backup")
    if any(size > FILE_BYTES_MAXIMUM for name, size in members.items() if name not in _SECTION_NAMES):
        raise BadZipFile("a member is too large")
    if not _SECTION_NAMES | {SETTINGS, MANIFEST} <= members.keys():
        raise BadZipFile("it is incomplete")
    manifest = _read_manifest(zip_file.read(MANIFEST))
    if members != {name: member.size_bytes for name, member in manifest.members.items()} | {
        MANIFEST: members[MANIFEST]
    }:
        raise BadZipFile("its members are not those of its manifest")
    return manifest


def _read_manifest(content: bytes) -> Manifest:
    found = msgspec.json.decode(content, type=_Format)  # a ValidationError is a ValueError
    if found.format != FORMAT:
        raise CommsError(
            f"the backup has format {found.format} and this release reads format {FORMAT}: restore it with comms-api"
            f" {found.release}"
        )
    return msgspec.json.decode(content, type=Manifest)
