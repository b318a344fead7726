"""Agents' descriptions of themselves. A fault in one never fails a request: the faulty member is ignored."""

import re
from typing import TypeVar

import msgspec

from comms_api.agents.store import EXTERNAL_TYPE
from comms_api.protocol import Host, OperatingSystem

LINE_BYTES_MAXIMUM = 16 * 1024
TEXT_LENGTH_MAXIMUM = 256
ADDRESSES_MAXIMUM = 32

_USER_AGENT = re.compile(r"[^/\s]+/(?P<version>\S+) \((?P<type>[^;()]*); (?P<architecture>[^;()]*); (?P<os>[^;()]*)\)")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_ABSENT = msgspec.Raw(b"null")

Form = TypeVar("Form")


class StoredDescription(msgspec.Struct, frozen=True):
    """An agent's description as the database has it; `user_agent` is the last one that was applied."""

    type: str
    version: str
    host: Host
    user_agent: str | None


class Description(msgspec.Struct, frozen=True):
    """An agent's description of itself; an empty member changes nothing."""

    type: str = ""
    version: str = ""
    host: Host | None = None
    user_agent: str | None = None

    def applied_to(self, before: StoredDescription) -> StoredDescription:
        """Return the stored description after this one.

        A User-Agent is applied once. It only completes the host, because batches describe it better. The type
        `external` says where an agent's key comes from, so no description sets or replaces it.
        """
        if self.user_agent is not None and self.user_agent == before.user_agent:
            return before
        host = self.host or before.host
        if self.user_agent is not None:
            host = _completed(before.host, host)
        has_type = self.type and EXTERNAL_TYPE not in {self.type, before.type}
        return StoredDescription(
            type=self.type if has_type else before.type,
            version=self.version or before.version,
            host=host,
            user_agent=self.user_agent or before.user_agent,
        )


def _completed(host: Host, more: Host) -> Host:
    """Return a host with the architecture and the system of another one, where it has none."""
    system = host.os if host.os.name or host.os.type else more.os
    return msgspec.structs.replace(host, architecture=host.architecture or more.architecture, os=system)


class _Agent(msgspec.Struct, frozen=True):
    type: msgspec.Raw = _ABSENT
    version: msgspec.Raw = _ABSENT
    host: msgspec.Raw = _ABSENT


class _Metadata(msgspec.Struct, frozen=True):
    agent: _Agent


class _System(msgspec.Struct, frozen=True):
    name: msgspec.Raw = _ABSENT
    type: msgspec.Raw = _ABSENT
    version: msgspec.Raw = _ABSENT


class _Host(msgspec.Struct, frozen=True):
    hostname: msgspec.Raw = _ABSENT
    os: msgspec.Raw = _ABSENT
    ip: msgspec.Raw = _ABSENT
    architecture: msgspec.Raw = _ABSENT


def read_metadata(line: bytes) -> Description | None:
    """Return the description in a batch's metadata line, or None if the line is too long or has none."""
    if len(line) > LINE_BYTES_MAXIMUM:
        return None
    metadata = _read(msgspec.Raw(_SURROGATE.sub(rb"\\ufffd", line)), _Metadata)
    if metadata is None:
        return None
    agent = metadata.agent
    return Description(_text(agent.type), _text(agent.version), read_host(agent.host))


def read_host(content: msgspec.Raw) -> Host | None:
    """Return the readable members of a host, or None without any."""
    members = _read(content, _Host)
    if members is None:
        return None
    system = _read(members.os, _System) or _System()
    addresses = _read(members.ip, list[msgspec.Raw]) or []
    host = Host(
        hostname=_text(members.hostname),
        os=OperatingSystem(_text(system.name), _text(system.type), _text(system.version) or None),
        ip=tuple(filter(None, map(_text, addresses[:ADDRESSES_MAXIMUM]))),
        architecture=_text(members.architecture),
    )
    return None if host == Host() else host


def read_user_agent(text: str) -> Description | None:
    """Return the description in a User-Agent like `NAME/VERSION (TYPE; ARCHITECTURE; SYSTEM)`, or None."""
    found = _USER_AGENT.fullmatch(text[: 4 * TEXT_LENGTH_MAXIMUM])
    if found is None:
        return None
    host = Host(os=OperatingSystem(_storable(found["os"])), architecture=_storable(found["architecture"]))
    return Description(_storable(found["type"]), _storable(found["version"]), host, _storable(text))


def _read(content: msgspec.Raw, form: type[Form]) -> Form | None:
    try:
        return msgspec.json.decode(content, type=form)
    except (ValueError, RecursionError):
        return None


def _text(content: msgspec.Raw) -> str:
    return _storable(_read(content, str) or "")


def _storable(text: str) -> str:
    return _UNSTORABLE.sub("\ufffd", text[:TEXT_LENGTH_MAXIMUM])
