"""The bodies that agents send, like those of real agents."""

import json
import random
import uuid
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from bench.event_texts import EventTexts
from fleet.memory import Change, Memory

OPERATING_SYSTEMS = ("Debian GNU/Linux", "Ubuntu", "Rocky Linux", "Amazon Linux")
DELETED_SHARE, CREATED_SHARE = 0.1, 0.5
STATES_MAXIMUM = 500
"""With more states than this, an agent deletes as many as it creates."""


def new_id() -> str:
    """Return a UUIDv7 (RFC 9562)."""
    stamp = int(datetime.now(UTC).timestamp() * 1000) << 80
    return str(uuid.UUID(int=stamp | 0x7 << 76 | random.getrandbits(76) & ~(0x3 << 62) | 0x2 << 62))


def enrollment(memory: Memory, groups: list[str]) -> dict[str, Any]:
    """Return the body that enrolls an agent."""
    about = metadata(memory, groups)["agent"]
    return about | {"key": memory.key}


def metadata(memory: Memory, groups: list[str]) -> dict[str, Any]:
    """Return the first line of a batch."""
    number = int(memory.id[-4:], 16)
    system = {"name": OPERATING_SYSTEMS[number % len(OPERATING_SYSTEMS)], "type": "Linux"}
    host = {
        "hostname": memory.name,
        "os": system,
        "ip": [f"10.{number >> 8}.{number & 255}.7"],
        "architecture": "x86_64",
    }
    about = {"id": memory.id, "name": memory.name, "groups": groups, "type": "Endpoint", "version": "v6.0.0"}
    return {"agent": about | {"host": host}}


def lines(*values: Any) -> bytes:
    """Return values as lines of JSON."""
    return b"".join(json.dumps(value, separators=(",", ":")).encode() + b"\n" for value in values)


def events(count: int) -> bytes:
    """Return the lines of this many events of about 400 bytes, after their header."""
    texts = EventTexts(random.getrandbits(64), datetime.now(UTC))
    return b"\n".join((lines({"module": "logcollector", "collector": "file"})[:-1], *texts.lines(count), b""))


def changes(memory: Memory, count: int) -> list[Change]:
    """Return this many possible changes of the agent's states, each of another state."""
    known = random.sample(sorted(memory.states), min(len(memory.states), count))
    deleted_share = 0.5 if len(memory.states) > STATES_MAXIMUM else DELETED_SHARE
    chosen: list[Change] = []
    for _ in range(count):
        if not known or random.random() < CREATED_SHARE:  # noqa: S311 - made up
            chosen.append(("create", uuid.uuid4().hex))
        else:
            chosen.append(("delete" if random.random() < deleted_share else "update", known.pop()))  # noqa: S311
    return chosen


def states(changed: list[Change]) -> bytes:
    """Return the lines of a stateful batch without the first one."""
    return b"".join(_state(operation, id_) for operation, id_ in changed)


def _state(operation: str, id_: str) -> bytes:
    is_file = id_[0] in "01234567"
    module, collector = ("fim", "file") if is_file else ("inventory", "packages")
    header = {"id": id_, "module": module, "collector": collector, "operation": operation}
    if operation == "delete":
        return lines(header)
    return lines(header, _file(id_) if is_file else _package(id_))


def _file(id_: str) -> dict[str, Any]:
    digest = sha256(random.randbytes(8)).hexdigest()  # noqa: S311 - made up
    return {"file": {"path": f"/etc/{id_[:8]}.conf", "size": len(id_), "hash": {"sha256": digest}, "mode": "rw-r--r--"}}


def _package(id_: str) -> dict[str, Any]:
    version = f"{random.randrange(10)}.{random.randrange(100)}-1"  # noqa: S311 - made up
    return {"package": {"name": f"lib{id_[:8]}", "version": version, "architecture": "amd64", "type": "deb"}}


def result_states(orders: list[str]) -> bytes:
    """Return reports of succeeded orders in the form of real agents: states of the module `command`."""
    done = {"command": {"result": {"code": 0, "message": "Command executed"}}}
    parts: list[dict[str, Any]] = []
    for order in orders:
        parts += [{"id": order, "module": "command", "operation": "update"}, done]
    return lines(*parts)
