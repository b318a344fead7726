"""Show who would get a command while an operator composes it: numbers up to a bound, and a few recipients."""

from collections.abc import Mapping, Sequence
from uuid import UUID

import msgspec
from sqlalchemy import func, select

from comms_api.agents.model import AgentStatus
from comms_api.agents.store import STATUS
from comms_api.commands.model import NewCommand
from comms_api.commands.submission.admission import refuse_unknown_selections
from comms_api.commands.submission.targets import (
    find_unknown,
    may_name_unknown,
    recipients,
    target_parameters,
    with_agent_ids,
)
from comms_api.database.connection import Connection, Engine
from comms_api.database.schema import agents

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
    """The agents that would get an order, by status, and the first of them; `blocked` are counted separately.

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
            unknown = await find_unknown(connection, command.target) if may_name_unknown(command.target, 0) else []
            if command.target.type == "server":
                return Preview({}, 0, 0, (), unknown, service=command.target.ids[0])
            preview = await _preview(connection, command, unknown)
            if command.offline == "wait":
                return preview
            everyone = await _preview(connection, msgspec.structs.replace(command, offline="wait"), unknown)
            return msgspec.structs.replace(preview, skipped=everyone.orders - preview.orders)


async def _preview(connection: Connection, command: NewCommand, unknown: Sequence[str]) -> Preview:
    chosen, parameters = recipients(command.target, command.offline), target_parameters(command.target)
    counted = chosen.limit(COUNTED_MAXIMUM + 1).subquery()
    statement = select(STATUS.label("status"), agents.c.is_blocked, func.count())
    joined = statement.select_from(counted.join(agents, agents.c.id == counted.c.agent_id))
    rows = await connection.execute(joined.group_by("status", agents.c.is_blocked), parameters)
    statuses = {status: number for status, is_blocked, number in rows if not is_blocked}
    blocked = sum(number for _, is_blocked, number in rows if is_blocked)
    first = select(agents.c.id, agents.c.name, STATUS, agents.c.is_blocked).where(agents.c.id.in_(chosen))
    shown = await connection.execute(first.order_by(agents.c.id).limit(SHOWN), parameters)
    is_cut = sum(statuses.values()) + blocked > COUNTED_MAXIMUM
    return Preview(statuses, blocked, 0, [Recipient(*row) for row in shown], unknown, is_cut=is_cut)
