"""The files and settings of a node that a backup contains."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from comms_api.app.certificates import AUTHORITY, DEVELOPMENT_FILES
from comms_api.app.secret_files import ADMINISTRATOR_PASSWORD
from comms_api.errors import ConfigurationError
from comms_api.private_files import PRIVATE, PUBLIC, NewFile
from comms_api.settings import Settings

FILE_BYTES_MAXIMUM = 2**20
"""The size of a file of the node, and of any other member except the database."""

SECRET = "secret"  # noqa: S105 - the name of its file
CONFIGURED = (
    "previous_secret_file",
    "admin_password_file",
    "tls_certificate",
    "tls_key",
    "client_ca",
    "key_request_header_file",
    "key_request_ca",
    "nats_ca",
    "nats_credentials",
    "webhook_ca",
)
"""The settings that name files of the operator."""

FILE_NAMES = (SECRET, ADMINISTRATOR_PASSWORD, *DEVELOPMENT_FILES, *CONFIGURED)

_DEFAULTS: Mapping[str, Any] = MappingProxyType(msgspec.structs.asdict(Settings()))


class NodeFile(NamedTuple):
    """A file of a node. The node has made it, or else a setting names it."""

    path: Path
    is_configured: bool
    mode: int = PRIVATE


def node_files(settings: Settings) -> dict[str, NodeFile]:
    """Return the files that a node with these settings may have, by their names in a backup."""
    files = {SECRET: NodeFile(settings.secret_path, is_configured=False)}
    if settings.admin_password_file is None:
        files[ADMINISTRATOR_PASSWORD] = NodeFile(settings.data_dir / ADMINISTRATOR_PASSWORD, is_configured=False)
    if settings.tls_certificate is None:
        for name in DEVELOPMENT_FILES:
            mode = PUBLIC if name == AUTHORITY else PRIVATE
            files[name] = NodeFile(settings.certs_dir / name, is_configured=False, mode=mode)
    values = msgspec.structs.asdict(settings)
    return files | {name: NodeFile(values[name], is_configured=True) for name in CONFIGURED if values[name]}


def read_files(settings: Settings) -> dict[str, bytes]:
    """Return the content of each file that exists; raises `ConfigurationError` if the secret is missing."""
    contents = {name: read_file(name, file.path) for name, file in node_files(settings).items()}
    if contents[SECRET] is None:
        raise ConfigurationError(f"secret_file: no such file: {settings.secret_path}: run this on a node")
    return {name: content for name, content in contents.items() if content is not None}


def read_file(name: str, path: Path) -> bytes | None:
    """Return the content of a file of the node, or None if it does not exist."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAXIMUM + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"{name}: cannot read {path}: {error.strerror}") from None
    if len(content) > FILE_BYTES_MAXIMUM:
        raise ConfigurationError(f"{name}: {path} is larger than {FILE_BYTES_MAXIMUM} bytes")
    return content


class FilePlan(NamedTuple):
    """The effect of a backup's files on a node."""

    new: list[NewFile]
    """The files to write."""

    replaced: list[Path]
    """Those among them that exist with another content."""

    kept: list[Path]
    """Existing files of the operator, which stay although they differ."""

    without_setting: list[str]
    """The names of files that the settings of the node have no path for."""


def plan_files(settings: Settings, contents: Mapping[str, bytes]) -> FilePlan:
    """Compare the files of a backup with those of a node. The operator's files stay, since they may be newer."""
    places = node_files(settings)
    plan = FilePlan([], [], [], [name for name in contents if name not in places])
    for name, file in places.items():
        content, present = contents.get(name), read_file(name, file.path)
        if content is None or content == present:
            continue
        if file.is_configured and present is not None:
            plan.kept.append(file.path)
            continue
        plan.new.append(NewFile(file.path, content, file.mode))
        if present is not None:
            plan.replaced.append(file.path)
    return plan


def describe_settings(settings: Settings) -> bytes:
    """Return the settings that differ from their defaults, from whatever source, as a settings file."""
    values = msgspec.structs.asdict(settings)
    # JSON's texts, numbers, lists and booleans are TOML's as well.
    lines = (
        f"{name} = {json.dumps(v, ensure_ascii=False, default=str)}\n"
        for name, v in values.items()
        if v != _DEFAULTS[name]
    )
    return "".join(lines).encode(errors="surrogateescape")
