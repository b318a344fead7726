"""The URL of the database: from what operators know, libpq's form with one host or several, to what SQLAlchemy wants.

`postgresql://user:password@host:5432/name?sslmode=require`, and with a primary and its standbys
`postgresql://user@host1:5432,host2:5432/name?target_session_attrs=read-write`. Drivers' own forms work too.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from comms_api.errors import ConfigurationError

PORT = "5432"
WRITABLE = "read-write"
TLS_FILES = {"sslrootcert", "sslcert", "sslkey", "sslcrl"}

# As SQLAlchemy takes URLs apart, up to the end of the hosts.
_URL = re.compile(r"(?P<before>[\w+]+://(?:[^:/]*(?::[^@]*)?@)?)(?P<hosts>[^/?]*)(?P<after>.*)", re.DOTALL)
_HOST = re.compile(r"(/.+|\[[^\]]+\]|[^:\[\]]+|[\da-fA-F]*:[\da-fA-F:]*:[\da-fA-F.]*)(?::(\d+))?")


def driver_url(url: str | URL) -> URL:
    """Return `url` as SQLAlchemy and asyncpg want it; raises `ConfigurationError` without showing a password.

    A server that cannot be written to is of no use here, so one that can is asked for, whether the URL does or not.
    """
    hosts, rest = _take_hosts(url) if isinstance(url, str) else ([], url)
    try:
        parsed = make_url(rest)
    except (ArgumentError, ValueError):
        raise ConfigurationError("database_url: not a URL such as postgresql://user@host:5432/name") from None
    if parsed.get_backend_name() not in {"postgresql", "postgres"}:
        raise ConfigurationError("database_url: must begin with postgresql://")
    query = _options(parsed)
    hosts = hosts or [_name_and_port(host) for host in _values(query.get("host", ()))]
    if len(hosts) > 1:
        query |= _list_hosts(hosts, _values(query.get("port", ())))
    return parsed.set(drivername="postgresql+asyncpg", query=query)


def _options(parsed: URL) -> dict[str, str | tuple[str, ...]]:
    query = dict(parsed.query)
    if sslmode := query.pop("sslmode", None):
        query["ssl"] = sslmode
    if query.setdefault("target_session_attrs", WRITABLE) not in {WRITABLE, "primary"}:
        raise ConfigurationError("database_url: target_session_attrs can be read-write or primary, nothing else")
    for name in TLS_FILES & query.keys():
        if not Path(str(query[name])).is_file():
            raise ConfigurationError(f"database_url: {name}: no such file")
    return query


def _take_hosts(url: str) -> tuple[list[tuple[str, str]], str]:
    """Return the hosts, when there are several, and the URL without them, which SQLAlchemy understands."""
    found = _URL.fullmatch(url)
    if found is None or "," not in found["hosts"]:
        return [], url
    pairs = [_name_and_port(host) for host in found["hosts"].split(",")]
    return [(unquote(name), port) for name, port in pairs], found["before"] + found["after"]


def _name_and_port(host: str) -> tuple[str, str]:
    found = _HOST.fullmatch(host)
    if found is None:
        raise ConfigurationError("database_url: the hosts must be a list such as host1:5432,host2:5432")
    return found[1].strip("[]"), found[2] or ""


def _values(given: str | Sequence[str]) -> list[str]:
    return ",".join([given] if isinstance(given, str) else given).split(",") if given else []


def _list_hosts(hosts: Sequence[tuple[str, str]], ports: Sequence[str]) -> dict[str, str]:
    """Return the one form of several hosts that libpq, SQLAlchemy and asyncpg all know."""
    if len(ports) not in {0, 1, len(hosts)} or not all(port.isdecimal() for port in ports):
        raise ConfigurationError("database_url: needs one port for all hosts, or one for each")
    others = ports if len(ports) == len(hosts) else [*ports, PORT][:1] * len(hosts)
    return {
        "host": ",".join(name for name, _ in hosts),
        "port": ",".join(port or other for (_, port), other in zip(hosts, others, strict=True)),
    }
