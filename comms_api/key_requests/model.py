"""Questions, valid answers, and the settings of key requests."""

import shutil
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import force_setattr

from comms_api.addresses import read_network
from comms_api.errors import Invalid
from comms_api.text.printable import NO_DOTS

ANY_ADDRESS = "any"
MESSAGE_CHARACTERS_MAXIMUM = 512
PROGRAM_FOLDERS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SOCKET_PATH_BYTES_MAXIMUM = 107
"""The capacity of `sun_path` (unix(7))."""

STATEMENT = "SELECT a.id, a.name, a.ip, a.key FROM agents AS a WHERE a.id = :id OR a.ip = :ip"

_UUID = r"[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[47][0-9A-Fa-f]{3}-[89ABab][0-9A-Fa-f]{3}-[0-9A-Fa-f]{12}"
_ID = rf"\A([0-9]{{3,8}}|{_UUID})\Z"

ExternalId = Annotated[str, Meta(pattern=_ID)]
ExternalName = Annotated[str, Meta(pattern=rf"\A{NO_DOTS}[A-Za-z0-9._-]{{1,128}}\Z")]
ExternalKey = Annotated[str, Meta(pattern=r"\A[ -~]{1,128}\Z")]
Code = Annotated[int, Meta(ge=-(2**31), lt=2**31)]
Seconds = Annotated[float, Meta(gt=0, le=3600)]
Rate = Annotated[float, Meta(ge=1, le=1_000_000)]


class Question(msgspec.Struct, frozen=True):
    """The agent to look for: by its id (3 to 8 digits, or a UUID of version 4 or 7) or by its address (IPv4, IPv6).

    The value is normalised, so that equivalent questions compare equal. Raises `Invalid` for any other value, so that
    no unchecked text from an agent reaches a program or a socket.
    """

    kind: Literal["id", "ip"]
    value: str

    def __post_init__(self) -> None:
        """Check and normalise the value."""
        try:
            value = msgspec.convert(self.value, ExternalId).lower() if self.kind == "id" else normal_address(self.value)
        except ValueError:
            raise Invalid(f"Not a valid {self.kind} of an agent.") from None
        force_setattr(self, "value", value)


class ExternalAgent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An agent as the external source knows it; its repr omits the key.

    The agent may log in from `ip`: an address, a network in CIDR notation, or `any`.
    """

    id: ExternalId
    name: ExternalName
    ip: str
    key: ExternalKey

    def __post_init__(self) -> None:
        """Normalise the id and the addresses."""
        force_setattr(self, "id", self.id.lower())
        force_setattr(self, "ip", normal_addresses(self.ip))

    def __repr__(self) -> str:
        """Return all fields except the key."""
        return f"ExternalAgent(id={self.id!r}, name={self.name!r}, ip={self.ip!r})"

    def __rich_repr__(self) -> list[tuple[str, str]]:
        """Omit the key from rich's tracebacks as well."""
        return [("id", self.id), ("name", self.name), ("ip", self.ip)]

    def admits(self, address: str) -> bool:
        """Return whether the agent may log in from `address`."""
        return self.ip == ANY_ADDRESS or ip_address(normal_address(address)) in ip_network(self.ip)

    def answers(self, question: Question) -> bool:
        """Return whether the agent has the requested id, or may log in from the requested address."""
        return self.id == question.value if question.kind == "id" else self.admits(question.value)


class Refusal(msgspec.Struct, frozen=True):
    """The source's refusal: a code other than 0, and a printable message of bounded length."""

    code: int
    message: str


class KeySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The sources of key requests and their limits; without a source, no key requests are made.

    The sources are asked in the order of the fields. `url` and `database_url` may contain secrets, so they are not in
    the repr. `program` is a command, to which the kind and the value are appended. Its first word is an absolute path,
    or the name of an interpreter in the system's folders. `timeout_seconds` bounds a lookup, including the time in the
    queue. At most `threads` lookups run at a time, and at most `queue_size` wait. The limits of memory and
    processor time apply to each run of the program.
    """

    socket: Path | None = None
    url: str | None = None
    database_url: str | None = None
    program: tuple[str, ...] = ()
    ca: Path | None = None
    header_file: Path | None = None
    statement: str = STATEMENT
    timeout_seconds: Seconds = 10.0
    threads: Annotated[int, Meta(ge=1, le=32)] = 4
    queue_size: Annotated[int, Meta(ge=1, le=220_000)] = 1024
    refusal_seconds: Annotated[float, Meta(ge=0, le=86_400)] = 10.0
    address_failures_per_minute: Rate = 300.0
    failures_per_minute: Rate = 3000.0
    answer_bytes_maximum: Annotated[int, Meta(ge=256, le=2**20)] = 16_384
    program_user: str | None = None
    program_memory_bytes: Annotated[int, Meta(ge=16 * 2**20, le=2**40)] = 2**30
    program_cpu_seconds: Annotated[int, Meta(ge=1, le=3600)] = 10

    def __post_init__(self) -> None:
        """Check the paths, and find the interpreter."""
        if self.program:
            force_setattr(self, "program", _resolved(self.program))
        if self.socket is not None:
            _check_socket_path(self.socket)

    @property
    def is_enabled(self) -> bool:
        """Whether a source is set."""
        return bool(self.socket or self.url or self.database_url or self.program)

    def __repr__(self) -> str:
        """Return the fields that cannot contain a secret."""
        return f"KeySettings(socket={self.socket!r}, program={self.program[:1]!r})"


def _resolved(program: tuple[str, ...]) -> tuple[str, ...]:
    if any("\0" in word for word in program):
        raise ValueError("program: must not contain NUL")
    if program[0].startswith("/"):
        return program
    found = None if "/" in program[0] else shutil.which(program[0], path=PROGRAM_FOLDERS)
    if found is None:
        raise ValueError(f"program: {program[0]} is neither an absolute path nor found in {PROGRAM_FOLDERS}")
    return (found, *program[1:])


def _check_socket_path(path: Path) -> None:
    if not path.is_absolute():
        raise ValueError("socket: expected an absolute path")
    if len(bytes(path)) > SOCKET_PATH_BYTES_MAXIMUM:
        raise ValueError(f"socket: the path is longer than {SOCKET_PATH_BYTES_MAXIMUM} bytes")


def normal_address(text: str) -> str:
    """Return the shortest form of an address, IPv4-mapped as IPv4; raises `ValueError`, which omits the text."""
    try:
        return str(_unmapped(ip_address(text)))
    except ValueError:
        raise ValueError("expected an address") from None


def _unmapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if isinstance(address, IPv4Address):
        return address
    if address.scope_id is not None:
        raise ValueError("an address with a zone is valid on one host only")
    return address.ipv4_mapped or address


def normal_addresses(text: str) -> str:
    """Return the normal form of an address, a network or `any`; raises `ValueError`, which omits the text.

    A network has a prefix length or, with IPv4, a dotted netmask.
    """
    address, slash, prefix = text.partition("/")
    try:
        if slash:
            return _normal_network(address, prefix)
        return ANY_ADDRESS if text.lower() == ANY_ADDRESS else normal_address(text)
    except ValueError:
        raise ValueError("expected an address, a CIDR network or `any`") from None


def _normal_network(address: str, prefix: str) -> str:
    network = read_network(f"{address}/{prefix}")
    if "." in prefix and str(network.netmask) != prefix:
        raise ValueError("a wildcard mask is not a netmask")
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


def printable(text: str, characters_maximum: int = MESSAGE_CHARACTERS_MAXIMUM) -> str:
    """Return `text` as one log line: join lines, replace unprintable characters, and shorten it with an ellipsis."""
    line = " ".join(text[: characters_maximum + 1].splitlines())
    shown = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)
    return shown if len(text) <= characters_maximum else f"{shown[:characters_maximum]}…"
