"""The attacks during which an innocent agent is measured, and their preparation on a node."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias
from uuid import UUID, uuid4

import msgspec
import zstandard

from bench.hostile import (
    EMPTY_GZIP,
    EMPTY_ZSTD,
    SKIPPED_ZSTD,
    Shot,
    bad_lines,
    deep_updates,
    exploding_schema,
    metadata,
    shot,
    small_updates,
)
from bench.messages import event_lines, stateless
from bench.system import System

FILE_BYTES = 4_000_000
LARGE_STATES = 300
LARGE_BYTES = 1_000_000
CROWD = 300
CROWD_LINES = 2_500
CROWD_PATIENCE_SECONDS = 15.0

_STATES = """
    INSERT INTO states (agent_id, module, collector, id, data, created_at, updated_at)
    SELECT $1, 'fim', 'file', number::text, json_build_object('n', 1, 'text', repeat('x', $3)), now(), now()
    FROM generate_series(0, $2 - 1) AS number"""
_EVENTS = """
    INSERT INTO event_batches (id, agent_id, events, streams, content)
    SELECT uuidv7(), $1, 1, '{"attack": ["file"]}', $3 FROM generate_series(1, $2)"""
_FILE = """
    INSERT INTO group_files (group_name, file_name, version, sha256, content, is_current, user_name, created_at)
    SELECT $1, 'large.txt', 1, encode(sha256(content), 'hex'), content, true, 'bench', now()
    FROM (SELECT convert_to(repeat('x', $2), 'UTF8') AS content) AS made"""


class Lane(msgspec.Struct, frozen=True):
    """Parallel clients that send the same requests in turn, each on a new connection, as real agents do."""

    port: int
    shots: Sequence[Shot]
    connections: int = 1
    pause_seconds: float = 0.25
    """The pause between an answer, or the end of the connection, and the next request."""

    reads: bool = True
    """Whether to read answers; otherwise each connection stays open until the server closes it."""

    patience_seconds: float = 60.0
    """The client waits at most this long for the complete answer."""


Attack: TypeAlias = Callable[[System, int], Awaitable[Sequence[Lane]]]
"""Prepares an attack for one round, with new clients: earlier clients may still owe CPU time."""


async def unfinished_bodies(system: System, _round: int) -> Sequence[Lane]:
    """Announce bodies on routes without a token, but do not send them."""
    refresh = shot("POST", "/security/user/refresh", body=b"{", announced=16 * 2**20)
    login = shot("POST", "/login", body=b"{" * 8_000, announced=64 * 1024)
    small = shot("POST", "/login", body=b"{" * 8_000, announced=8 * 1024)
    return [
        Lane(system.management_port, [refresh], 16),
        Lane(system.agent_port, [login, small], 520, pause_seconds=5.0),
    ]


async def empty_frames(system: System, _round: int) -> Sequence[Lane]:
    """Send bodies of very many compressed frames, with a token and without one."""
    token = await _agent_token(system)
    path = "/events/stateless"
    bodies = [
        shot("POST", path, token, fill=EMPTY_ZSTD, times=1_000_000, encoding="zstd"),
        shot("POST", path, token, fill=EMPTY_GZIP, times=700_000, encoding="gzip"),
        shot("POST", path, token, fill=SKIPPED_ZSTD, times=1_000_000, encoding="zstd"),
    ]
    login = [
        shot("POST", "/login", fill=EMPTY_ZSTD, times=900, encoding="zstd"),
        shot("POST", "/login", fill=EMPTY_GZIP, times=400, encoding="gzip"),
    ]
    return [Lane(system.agent_port, [body]) for body in bodies] + [Lane(system.agent_port, login, 2)]


async def nested_yaml(system: System, number: int) -> Sequence[Lane]:
    """Store group files whose YAML is nested tens of thousands of levels deep."""
    token, path = system.user_token(f"operator-{number}", "operator"), "/groups/attack/files/a.yml"
    await system.enroll(1, "attack")
    shots = [
        shot("PUT", path, token, fill=b"? ", times=25_000),
        shot("PUT", path, token, fill=b"- ", times=30_000),
        shot("PUT", path, token, fill=b"[", times=40_000),
        shot("PUT", path, token, fill=b"{a: ", times=10_000),
    ]
    return [Lane(system.management_port, shots, 4)]


async def costly_items(system: System, _round: int) -> Sequence[Lane]:
    """Send small compressed batches of very many bad lines, or of updates nested deep."""
    [liar, deep] = await system.enroll(2, "attack")
    path = "/events/stateful"
    bad = shot("POST", path, system.token(liar), bad_lines(liar, 399_000), encoding="gzip")
    nested = shot("POST", path, system.token(deep), deep_updates(deep, 64_000, 30), encoding="zstd")
    return [Lane(system.agent_port, [bad], 24), Lane(system.agent_port, [nested])]


async def large_states(system: System, _round: int) -> Sequence[Lane]:
    """Update one member of each of very many large states."""
    [agent] = await system.enroll(1, "attack")
    await _fill(system, _STATES, agent, LARGE_BYTES)
    body = small_updates(agent, map(str, range(LARGE_STATES)))
    return [Lane(system.agent_port, [shot("POST", "/events/stateful", system.token(agent), body)])]


async def unread_files(system: System, number: int) -> Sequence[Lane]:
    """Ask for a large file very often, and do not read it."""
    group = f"large-{number}"
    [agent] = await system.enroll(1, group)
    async with system.session() as connection:
        await connection.execute(_FILE, group, FILE_BYTES)
    request = shot("GET", "/files?file_name=large.txt", system.token(agent))
    return [Lane(system.agent_port, [request], 150, reads=False)]


async def guesses(system: System, _round: int) -> Sequence[Lane]:
    """Guess an agent's slowly hashed key, and claim ids that only the external database knows."""
    [agent] = await system.enroll(1, "attack", is_key_weak=True)
    weak = [_login(str(agent), f"wrong key {number}") for number in range(400)]
    unknown = [_login(str(uuid4()), "wrong key") for _ in range(400)]
    return [Lane(system.agent_port, weak, 400, pause_seconds=2.0), Lane(system.agent_port, unknown, 20)]


async def exploding_action(system: System, number: int) -> Sequence[Lane]:
    """Register an action with an exploding schema, and send a command with it."""
    token = system.user_token(f"administrator-{number}", "administrator")
    [agent] = await system.enroll(1, "attack")
    command = {
        "source": "Engine",
        "target": {"id": str(agent), "type": "agent"},
        "action": {"name": "bomb", "args": {}},
        "timeout": 600,
    }
    shots = [
        shot("PUT", "/actions/bomb", token, exploding_schema(24)),
        shot("POST", "/commands", token, msgspec.json.encode(command)),
    ]
    return [Lane(system.management_port, shots, 2)]


async def large_pages(system: System, number: int) -> Sequence[Lane]:
    """Read pages of large states and of large events."""
    if number == 0:
        [agent] = await system.enroll(1, "attack")
        await _fill(system, _STATES, agent, LARGE_BYTES)
        event = msgspec.json.encode({"text": "x" * LARGE_BYTES})
        await _fill(system, _EVENTS, agent, zstandard.compress(stateless(agent, [event])))
    token = system.user_token(f"reader-{number}", "reader")
    shots = [shot("GET", f"{path}?limit=1000", token) for path in ("/states", "/events")]
    return [Lane(system.management_port, shots, 2)]


async def crowd(system: System, _round: int) -> Sequence[Lane]:
    """Send large batches from very many honest agents at once, which time out and send again."""
    line = event_lines(1)[0] + b"\n"
    shots = [
        shot(
            "POST",
            "/events/stateless",
            system.token(agent),
            metadata(agent) + b'\n{"module":"logcollector","collector":"file"}\n',
            fill=line,
            times=CROWD_LINES,
        )
        for agent in await system.enroll(CROWD, "crowd")
    ]
    return [Lane(system.agent_port, shots, CROWD, patience_seconds=CROWD_PATIENCE_SECONDS)]


async def _fill(system: System, statement: str, agent: UUID, content: int | bytes) -> None:
    async with system.session() as connection:
        await connection.execute(statement, agent, LARGE_STATES, content)


def _login(agent_id: str, key: str) -> Shot:
    return shot("POST", "/login", body=msgspec.json.encode({"uuid": agent_id, "key": key}))


async def _agent_token(system: System) -> str:
    [agent] = await system.enroll(1, "attack")
    return system.token(agent)


ATTACKS: Mapping[str, Attack] = {
    "1 unfinished bodies": unfinished_bodies,
    "2 empty frames": empty_frames,
    "3 nested YAML": nested_yaml,
    "4 costly items": costly_items,
    "5 large states": large_states,
    "6 unread files": unread_files,
    "7 guesses": guesses,
    "8 exploding action": exploding_action,
    "10 large pages": large_pages,
    "14 crowd": crowd,
}
"""By a number and a name, which `make bench` writes into its results."""
