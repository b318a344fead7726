"""The parameters of `database_url`, with libpq's names and meanings.

asyncpg handles most of them and this package some; an error names any other
(PostgreSQL manual, "Parameter Key Words").
"""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path

from comms_api.errors import ConfigurationError

WRITABLE = "read-write"
TLS_FILES = {"sslrootcert", "sslcert", "sslkey", "sslcrl"}
ONLY_IN_A_URL = TLS_FILES | {
    "sslpassword",
    "sslnegotiation",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
}
"""asyncpg accepts these in a URL only."""

SERVER_SETTINGS = {"application_name", "options"}
"""Sent to the server when a session starts."""

NUMBERS = {
    "connect_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
}

_PASSED_ON = ONLY_IN_A_URL | {
    *("host", "port", "user", "password", "database", "passfile", "service"),
    *("krbsrvname", "gsslib", "ssl", "target_session_attrs"),
}
_OTHER_NAMES = {"sslmode": "ssl", "dbname": "database"}
LIBPQ_NAMES = {driver_name: name for name, driver_name in _OTHER_NAMES.items()}
"""The driver's names that libpq does not have, with libpq's."""

_DONE_ANYWAY: Mapping[str, str] = {
    "channel_binding": "prefer|disable",
    "gssencmode": "prefer|disable",
    "gssdelegation": "0",
    "client_encoding": "auto|utf-?8|unicode",
    "fallback_application_name": ".*",
    "load_balance_hosts": "disable|random",
    "replication": "false|off|no|0",
    "sslcompression": "0",
    "sslsni": "1",
    "sslcertmode": "allow",
}
"""The only supported values (regular expressions) of parameters: they describe the actual behaviour."""

_REFUSED = {"hostaddr", "require_auth", "requirepeer", "requiressl", "sslcrldir", "servicefile"}
_KNOWN = _PASSED_ON | _OTHER_NAMES.keys() | SERVER_SETTINGS | NUMBERS | _DONE_ANYWAY.keys() | _REFUSED


def read_parameters(parameters: Mapping[str, str | tuple[str, ...]]) -> dict[str, str | tuple[str, ...]]:
    """Return parameters under the driver's names; raises `ConfigurationError` for the first wrong one.

    The result always requires a server that accepts writes, even if the URL does not.
    """
    read: dict[str, str | tuple[str, ...]] = {}
    for name, values in parameters.items():
        value = values if isinstance(values, str) or name in {"host", "port"} else values[-1]
        if not _is_done_anyway(name, str(value)):
            _check(name, str(value))
            read[_OTHER_NAMES.get(name, name)] = value
    if read.setdefault("target_session_attrs", WRITABLE) not in {WRITABLE, "primary"}:
        raise ConfigurationError("database_url: target_session_attrs must be read-write or primary")
    return read


def _is_done_anyway(name: str, value: str) -> bool:
    return name in _DONE_ANYWAY and re.fullmatch(_DONE_ANYWAY[name], value, re.IGNORECASE) is not None


def _check(name: str, value: str) -> None:
    if name not in _KNOWN:
        [nearest] = difflib.get_close_matches(name, sorted(_KNOWN), n=1) or [""]
        hint = f"; did you mean {nearest}?" if nearest else ""
        raise ConfigurationError(f"database_url: {name}: no such parameter{hint}")
    if name in _DONE_ANYWAY:
        raise ConfigurationError(f"database_url: {name}: {value!r} is not supported; it can be {_DONE_ANYWAY[name]}")
    if name in _REFUSED:
        raise ConfigurationError(f"database_url: {name}: not supported; leave it out")
    if name in NUMBERS and not re.fullmatch(r"\d{1,9}", value):
        raise ConfigurationError(f"database_url: {name}: expected a whole number, not {value!r}")
    if name in TLS_FILES and not Path(value).is_file():
        raise ConfigurationError(f"database_url: {name}: no such file")
