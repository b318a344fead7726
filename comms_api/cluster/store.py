"""The SQL of nodes. All times are the database's."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import ARRAY, JSON, Text, bindparam, case, func, select, text

from comms_api.agents.store import STATUS
from comms_api.cluster.model import (
    REBALANCE_SECONDS,
    Directive,
    Heartbeat,
    NameHolder,
    NodeAddress,
    NodeAgents,
    NodeProcess,
    NodeStatus,
    RebalancedProcess,
    WantedState,
)
from comms_api.database.connection import Connection
from comms_api.database.liveness import IS_HERE, LOST_AFTER_SECONDS
from comms_api.database.schema import agents, nodes, seconds_interval
from comms_api.duties.health import DutyReport

NAMES_LOCK = 0x6E616D6573
_DUTIES = msgspec.json.Decoder(dict[str, DutyReport])
_STATE = case((IS_HERE, nodes.c.state), else_="lost")
_IS_LIVE = f"seen_at > now() - interval '{LOST_AFTER_SECONDS} s'"

_PROCESS_COLUMNS = "name, worker, agent_url, management_url, boot_id, version, connections_maximum, secret_fingerprint"
_PROCESS_VALUES = ", ".join(f":{column}" for column in _PROCESS_COLUMNS.split(", "))

_FILES = """
    SELECT encode(sha256(convert_to(coalesce(string_agg(group_name || '/' || file_name || ' ' || sha256, E'\n'
        ORDER BY group_name, file_name, version), ''), 'UTF8')), 'hex') FROM group_files
    WHERE is_current OR staged_percent IS NOT NULL"""

# An upsert: if the row of a process was removed because it seemed lost, its next heartbeat inserts it again.
_BEAT = text(f"""
    INSERT INTO nodes (id, {_PROCESS_COLUMNS}, wanted_state,
        state, polls, requests_per_second, duties, skew_seconds, key_ids, files_sha256)
    VALUES (:id, {_PROCESS_VALUES},
        coalesce((SELECT max(wanted_state) FROM nodes WHERE name = :name), 'active'),
        :state, :polls, :requests_per_second, :duties, :skew_seconds, :key_ids, ({_FILES}))
    ON CONFLICT (id) DO UPDATE SET seen_at = now(), state = excluded.state, polls = excluded.polls,
        requests_per_second = excluded.requests_per_second, duties = excluded.duties,
        skew_seconds = excluded.skew_seconds, key_ids = excluded.key_ids, files_sha256 = excluded.files_sha256,
        lost_at = NULL
    RETURNING wanted_state,
        CASE WHEN rebalanced_at > now() - interval '{REBALANCE_SECONDS} s' THEN wanted_polls END
    """).bindparams(bindparam("duties", type_=JSON), bindparam("key_ids", type_=ARRAY(Text)))


async def beat(
    connection: Connection, node_id: UUID, process: NodeProcess, version: str, heartbeat: Heartbeat
) -> Directive:
    """Store a process's heartbeat; return the operators' directive to the process."""
    parameters = {"id": node_id, "version": version} | _columns_of(process) | msgspec.structs.asdict(heartbeat)
    [directive] = await connection.execute(_BEAT, parameters)
    return Directive(*directive)


def _columns_of(process: NodeProcess) -> dict[str, Any]:
    columns = msgspec.structs.asdict(process)
    return msgspec.structs.asdict(columns.pop("address")) | columns


async def remove_predecessors(connection: Connection, node_id: UUID, process: NodeProcess) -> None:
    """Remove every other row of this process's name and number."""
    others = (nodes.c.name == process.address.name, nodes.c.worker == process.worker, nodes.c.id != node_id)
    await connection.execute(nodes.delete().where(*others))


_ADD_JOINING = text("""
    INSERT INTO outbox (kind, node, details)
    VALUES ('node_joined', :name,
        json_build_object('worker', CAST(:worker AS int), 'agent_url', CAST(:agent_url AS text)))""")


async def record_joining(connection: Connection, process: NodeProcess) -> None:
    """Record as an event of the fleet that a process joins."""
    await connection.execute(_ADD_JOINING, _columns_of(process))


_REMOVE = text("""
    WITH removed AS (DELETE FROM nodes WHERE id = :node_id RETURNING name, worker)
    INSERT INTO outbox (kind, node, details)
    SELECT 'node_left', name, json_build_object('worker', worker) FROM removed""")


async def remove(connection: Connection, node_id: UUID) -> None:
    """Remove the row of a process that ends, and record that as an event of the fleet."""
    await connection.execute(_REMOVE, {"node_id": node_id})


async def forget_lost(connection: Connection, silent_seconds: float, name: str | None = None) -> int:
    """Remove processes that have sent no heartbeat for `silent_seconds`, of one node or of all; return their number."""
    statement = nodes.delete().where(nodes.c.seen_at <= func.now() - seconds_interval(silent_seconds))
    if name is not None:
        statement = statement.where(nodes.c.name == name)
    return await connection.change(statement)


async def has_name(connection: Connection, name: str) -> bool:
    """Return whether any process, live or lost, has a name."""
    return await connection.first(select(nodes.c.id).where(nodes.c.name == name).limit(1)) is not None


_FIND_NAME_HOLDER = text(f"""
    SELECT agent_url, management_url, seen_at, clock_timestamp() FROM nodes
    WHERE name = :name AND {_IS_LIVE}
        AND (boot_id = '' OR (agent_url, management_url, boot_id) <> (:agent_url, :management_url, :boot_id))
    ORDER BY seen_at DESC LIMIT 1""")


async def find_name_holder(connection: Connection, address: NodeAddress) -> NameHolder | None:
    """Return the live node that has this name at other URLs or on another boot.

    A row with the same URLs and boot is a predecessor: this node owns its sockets now.
    """
    row = await connection.first(_FIND_NAME_HOLDER, msgspec.structs.asdict(address))
    return NameHolder(*row) if row else None


_TAKE_NAME = text(f"""
    WITH gone AS (DELETE FROM nodes WHERE name = :name RETURNING wanted_state)
    INSERT INTO nodes (id, {_PROCESS_COLUMNS}, wanted_state)
    SELECT uuid7(), {_PROCESS_VALUES}, coalesce(max(wanted_state), 'active') FROM gone""")


async def take_name(connection: Connection, address: NodeAddress, version: str) -> None:
    """Replace all rows of a name by one row with their requested state, until the node's first process joins."""
    await connection.execute(_TAKE_NAME, _columns_of(NodeProcess(address)) | {"version": version})


_COLUMNS = [column for column in nodes.c if column.name in NodeStatus.__struct_fields__ and column.name != "state"]


async def list_nodes(connection: Connection) -> list[NodeStatus]:
    """Return every process, ordered by name and number."""
    silence = func.extract("epoch", func.now() - nodes.c.seen_at)
    statement = select(*_COLUMNS, _STATE.label("state"), silence.label("silence"))
    rows = await connection.execute(statement.order_by(nodes.c.name, nodes.c.worker, nodes.c.id))
    return [_status(dict(row)) for row in rows]


def _status(row: dict[str, Any]) -> NodeStatus:
    duties = _DUTIES.decode(row.pop("duties"))
    late = sorted(name for name, duty in duties.items() if duty.lag_seconds)
    lag_seconds = max((duty.lag_seconds for duty in duties.values()), default=0.0)
    silent_seconds = round(max(0.0, float(row.pop("silence"))), 1)
    return NodeStatus(**row, duties=duties, late=late, lag_seconds=lag_seconds, silent_seconds=silent_seconds)


async def count_agents(connection: Connection) -> list[NodeAgents]:
    """Return the number of active agents by the node that saw them last."""
    statement = select(agents.c.node, func.count()).where(STATUS == "active")
    return [NodeAgents(*row) for row in await connection.execute(statement.group_by(agents.c.node).order_by("node"))]


async def lock_names(connection: Connection) -> None:
    """Let one transaction at a time claim a name, join, or request a state."""
    await connection.take_turns(NAMES_LOCK)


async def request_state(connection: Connection, name: str, state: WantedState) -> int:
    """Store the state that an operator requests of a node; return the number of its processes."""
    statement = nodes.update().where(nodes.c.name == name).values(wanted_state=state)
    return await connection.change(statement)


_REBALANCE = text(f"""
    UPDATE nodes SET wanted_polls = CAST(ceil(mean) AS int), rebalanced_at = now()
    FROM (SELECT CAST(avg(polls) AS float8) AS mean FROM nodes WHERE state = 'active' AND {_IS_LIVE}) AS fair
    WHERE state = 'active' AND {_IS_LIVE} AND polls > mean * :tolerated AND polls > ceil(mean)
    RETURNING name, worker, polls, wanted_polls""")


async def rebalance(connection: Connection, tolerated: float) -> Sequence[RebalancedProcess]:
    """Request that processes with over `tolerated` times the mean number of polls come down to it; return them."""
    rows = await connection.execute(_REBALANCE, {"tolerated": tolerated})
    return sorted((RebalancedProcess(**row) for row in rows), key=lambda process: (process.name, process.worker))
