"""Build the bodies that agents and operators send."""

import json
from typing import Any
from uuid import UUID


def metadata(agent_id: UUID | str) -> bytes:
    return json.dumps({"agent": {"id": str(agent_id), "name": "a", "groups": [], "host": {"hostname": "h"}}}).encode()


def stateless(agent_id: UUID | str, *events: Any, module: str = "logcollector") -> bytes:
    """Return a batch with one run of events; bytes are sent unchanged."""
    header = json.dumps({"module": module, "collector": "file"}).encode()
    lines = [event if isinstance(event, bytes) else json.dumps(event).encode() for event in events]
    return b"\n".join([metadata(agent_id), header, *lines]) + b"\n"


def state(id_: str, operation: str = "create", data: Any = None, module: str = "fim", collector: str = "file") -> bytes:
    """Return one item: its header and, unless the operation is delete, its data line."""
    header = json.dumps({"id": id_, "module": module, "collector": collector, "operation": operation}).encode()
    if operation == "delete":
        return header
    line = data if isinstance(data, bytes) else json.dumps({} if data is None else data).encode()
    return header + b"\n" + line


def stateful(agent_id: UUID | str, *items: bytes) -> bytes:
    return b"\n".join([metadata(agent_id), *items]) + b"\n"


def command(target: UUID | str, kind: str = "agent", action: str = "restart", **changes: Any) -> dict[str, Any]:
    return {
        "source": "Users/Services",
        "user": "admin",
        "target": {"id": str(target), "type": kind},
        "action": {"name": action, "args": {}, "version": "6.0.0"},
        "timeout": 100,
    } | changes
