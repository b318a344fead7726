"""Count the agents of the fleet. This reads the whole table, so the caller asks seldom."""

from collections import defaultdict

from sqlalchemy import BigInteger, ColumnElement, Select, cast, func, literal, select, text, union_all

from comms_api.agents.model import AgentCounts
from comms_api.agents.store import IS_PROVED, STATUS
from comms_api.database.connection import Connection
from comms_api.database.schema import agents, group_members

_COUNTED = (
    select(STATUS.label("status"), agents.c.version, agents.c.node, IS_PROVED.label("is_proved"))
    .add_columns(func.count().label("number"))
    .where(agents.c.hidden_at.is_(None))
    .group_by(text("1, 2, 3, 4"))
    .cte("counted")
)
_BY_NUMBER = text("number DESC, name")


def _sums(kind: str, name: ColumnElement[str], *conditions: ColumnElement[bool]) -> Select[str, str, int]:
    number = cast(func.sum(_COUNTED.c.number), BigInteger).label("number")
    return select(literal(kind).label("kind"), name.label("name"), number).where(*conditions).group_by(name)


async def count_agents(connection: Connection, limit: int) -> AgentCounts:
    """Count the visible agents, and the members of groups. It reads each agent once.

    Of the versions and groups, it counts the `limit` most frequent ones. The members include hidden agents.
    """
    counted = _COUNTED.c
    versions = _sums("version", counted.version).order_by(_BY_NUMBER).limit(limit).subquery()
    members = select(literal("group"), group_members.c.group_name.label("name"), func.count().label("number"))
    members = members.group_by(group_members.c.group_name).order_by(_BY_NUMBER).limit(limit)
    statement = union_all(
        _sums("status", counted.status),
        _sums("node", counted.node, counted.status == "active"),
        _sums("clone", counted.status, counted.is_proved),
        select(versions),
        select(members.subquery()),
    )
    found: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    for kind, name, number in await connection.execute(statement.order_by(_BY_NUMBER)):
        found[kind].append((name, number))
    clones = sum(number for _, number in found["clone"])
    return AgentCounts(dict(found["status"]), found["version"], found["group"], dict(found["node"]), clones)
