"""Convert the URL of the database from libpq's form, with one host or several, to that of SQLAlchemy.

`postgresql://user:password@host:5432/name?sslmode=require`, and with a primary and its standbys
`postgresql://user@host1:5432,host2:5432/name?target_session_attrs=read-write`. The drivers' forms work too.
"""

import re
from collections.abc import Sequence
from urllib.parse import unquote

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from comms_api.database.address.parameters import LIBPQ_NAMES, read_parameters
from comms_api.errors import ConfigurationError

PORT = "5432"
PORT_MAXIMUM = 65_535

# Splits URLs as SQLAlchemy does, up to the end of the hosts.
_URL = re.compile(r"(?P<before>[\w+]+://(?:[^:/]*(?::[^@]*)?@)?)(?P<hosts>[^/?]*)(?P<after>.*)", re.DOTALL)
_HOST = re.compile(r"(/.+|\[[^\]]+\]|[^:\[\]]+|[\da-fA-F]*:[\da-fA-F:]*:[\da-fA-F.]*)(?::(\d+))?")


def driver_url(url: str | URL) -> URL:
    """Return `url` for SQLAlchemy and asyncpg; raises `ConfigurationError`, which never shows the password."""
    hosts, single_host_url = _extract_hosts(url) if isinstance(url, str) else ([], url)
    try:
        parsed = make_url(single_host_url)
    except (ArgumentError, ValueError):
        raise ConfigurationError("database_url: not a URL such as postgresql://user@host:5432/name") from None
    if parsed.get_backend_name() not in {"postgresql", "postgres"}:
        raise ConfigurationError("database_url: must begin with postgresql://")
    if (parsed.port or 1) > PORT_MAXIMUM:
        raise ConfigurationError(f"database_url: {parsed.port} is not a port")
    query = read_parameters(parsed.query)
    ports = _values(query.get("port", ()))
    if not all(port.isdecimal() and 0 < int(port) <= PORT_MAXIMUM for port in ports):
        raise ConfigurationError(f"database_url: port: not a port: {','.join(ports)!r}")
    if hosts or len(named := [_name_and_port(host) for host in _values(query.get("host", ()))]) > 1:
        query |= _list_hosts(hosts or named, ports)
    return parsed.set(drivername="postgresql+asyncpg", query=query)


def libpq_parameters(url: URL) -> dict[str, str]:
    """Return the parameters of a URL of `driver_url` under libpq's names, for PostgreSQL's programs."""
    parts = {"host": url.host, "port": url.port, "user": url.username, "password": url.password, "dbname": url.database}
    named = {name: str(part) for name, part in parts.items() if part is not None}
    return named | {LIBPQ_NAMES.get(name, name): ",".join(_values(value)) for name, value in url.query.items()}


def _extract_hosts(url: str) -> tuple[list[tuple[str, str]], str]:
    """Return the hosts and the URL without them, if there are several hosts or one socket folder.

    SQLAlchemy does not understand these between `//` and `/`.
    """
    found = _URL.fullmatch(url)
    if found is None or not ("," in found["hosts"] or found["hosts"].startswith("%")):
        return [], url
    pairs = [_name_and_port(host) for host in found["hosts"].split(",")]
    return [(unquote(name), port) for name, port in pairs], found["before"] + found["after"]


def _name_and_port(host: str) -> tuple[str, str]:
    found = _HOST.fullmatch(host)
    if found is None:
        raise ConfigurationError("database_url: the hosts must be a list such as host1:5432,host2:5432")
    return found[1].strip("[]"), found[2] or ""


def _values(lists: str | Sequence[str]) -> list[str]:
    """Return the members of one comma-separated list or of several."""
    return ",".join([lists] if isinstance(lists, str) else lists).split(",") if lists else []


def _list_hosts(hosts: Sequence[tuple[str, str]], ports: Sequence[str]) -> dict[str, str]:
    """Return hosts in the form that libpq, SQLAlchemy and asyncpg share."""
    if len(ports) not in {0, 1, len(hosts)}:
        raise ConfigurationError("database_url: expected one port for all hosts, or one for each host")
    others = ports if len(ports) == len(hosts) else [*ports, PORT][:1] * len(hosts)
    return {
        "host": ",".join(name for name, _ in hosts),
        "port": ",".join(port or other for (_, port), other in zip(hosts, others, strict=True)),
    }
