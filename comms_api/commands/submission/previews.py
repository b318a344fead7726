"""Show who would get a command while an operator composes it: numbers up to a bound, and a few recipients."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import ARRAY, Select, Uuid, any_, bindparam, func, select

from comms_api.agents.model import AgentStatus
from comms_api.agents.store import STATUS
from comms_api.commands.model import NewCommand
from comms_api.commands.submission.admission import refuse_unknown_selections
from comms_api.commands.submission.targets import (
    find_unknown,
    recipients,
    target_parameters,
    with_agent_ids,
)
from comms_api.database.connection import Engine
from comms_api.database.schema import agents
from comms_api.orders.model import CommandTarget

COUNTED_MAXIMUM = 100_000
"""The maximum number of recipients to count."""

SHOWN = 12


class Recipient(msgspec.Struct, frozen=True):
    """An agent that would get an order."""

    id: UUID
    name: str
    status: AgentStatus
    is_blocked: bool


class Preview(msgspec.Struct, frozen=True):
    """The agents that would get an order, by status, and some of them; `blocked` are counted separately.

    `skipped` agents are in the target, but offline. `unknown` are the names in the target that do not exist.
    """

    statuses: Mapping[AgentStatus, int]
    blocked: int
    skipped: int
    first: Sequence[Recipient]
    unknown: Sequence[str]
    service: str | None = None
    is_cut: bool = False
    """Whether there are more recipients than `COUNTED_MAXIMUM`; the numbers are those of the first."""

    @property
    def orders(self) -> int:
        """The number of orders that the command would have."""
        return sum(self.statuses.values()) + self.blocked + (self.service is not None)


class Previews:
    """Counts and shows the recipients of commands that are being composed; submits nothing."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def preview(self, user: str, command: NewCommand) -> Preview:
        """Return the recipients of a command, not checking its action; raises `Invalid` for an unknown selection."""
        async with self._engine.connect() as connection:
            await refuse_unknown_selections(connection, user, [command])
            [command] = await with_agent_ids(connection, [command])
            target = command.target
            unknown = await find_unknown(connection, target)
            if target.type == "server":
                return Preview({}, 0, 0, (), unknown, service=target.ids[0])
            rows = await connection.execute(_count(target), target_parameters(target))
            skipped = [row for row in rows if command.offline == "skip" and row.status != "active"]
            chosen = [row for row in rows if row not in skipped]
            first = [agent_id for row in chosen for agent_id in row.first][:SHOWN]
            return Preview(
                {row.status: row.number for row in chosen if not row.is_blocked},
                sum(row.number for row in chosen if row.is_blocked),
                sum(row.number for row in skipped),
                [Recipient(*row) for row in await connection.execute(_RECIPIENTS, {"ids": first})],
                unknown,
                is_cut=sum(row.number for row in rows) > COUNTED_MAXIMUM,
            )


def _count(target: CommandTarget) -> Select[Any]:
    """Return a statement that counts a target's agents by status, and names a few; it reads the agents once."""
    chosen = recipients(target).limit(COUNTED_MAXIMUM + 1).subquery()
    first = func.array_agg(agents.c.id)[1:SHOWN].label("first")
    columns = (STATUS.label("status"), agents.c.is_blocked, func.count().label("number"), first)
    joined = chosen.join(agents, agents.c.id == chosen.c.agent_id)
    return select(*columns).select_from(joined).group_by("status", agents.c.is_blocked)


_RECIPIENTS = (
    select(agents.c.id, agents.c.name, STATUS, agents.c.is_blocked)
    .where(agents.c.id == any_(bindparam("ids", type_=ARRAY(Uuid))))
    .order_by(agents.c.name)
)
