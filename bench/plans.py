"""Write `docs/performance/plans/`: the plans of the hot statements on large tables, from `auto_explain`.

The functions of the stores run the statements, each in a transaction that is rolled back.
"""

import re
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import click
import msgspec
from sqlalchemy import select, text

from bench.figures import Effort, Measured, Measurement
from bench.fresh import measured_together
from bench.growth import FLEET, schema_pair
from bench.growth_orders import FILLING, GROUP
from bench.system import System
from comms_api.agents.sightings import Sighting, record_sightings
from comms_api.agents.store import find_admission
from comms_api.commands.model import NewCommand
from comms_api.commands.submission.expansion import expand_command, expansion_of
from comms_api.database.connect import open_engine
from comms_api.database.connection import Connection, Engine
from comms_api.database.schema import is_one_of, orders
from comms_api.database.uuid7 import uuid7_at
from comms_api.orders.leases import claim_orders
from comms_api.orders.model import Ending
from comms_api.orders.transitions import expire_orders, find_statuses, finish_orders
from comms_api.settings import Settings
from comms_api.states.store import find_states, insert_states, update_states

FOLDER = Path("docs/performance/plans")
FINISHED = 1_000_000
STATES_PER_AGENT = 10
AT_ONCE = 50
"""The number of agents whose polls, results or sightings share a statement."""

LONG_LITERAL = re.compile(r"'\{[^']{80,}\}'")

_FILL = (
    """INSERT INTO states (agent_id, module, collector, id, data)
        SELECT id, 'fim', 'file', n::text, '{"file": {"size": 1}}' FROM agents, generate_series(1, $1::int) AS n""",
    """INSERT INTO commands (request_id, source, user_name, target_type, target_ids, action_name, action_version,
            action_args, timeout_seconds, expires_at)
        SELECT ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, 'Engine', 'admin', 'group', '{acting}',
            'restart', '', '{}', 600, now() FROM generate_series(0, $1::int * 100) AS n""",
    """INSERT INTO orders (order_id, request_id, agent_id, agent_groups, attempt, expires_at)
        SELECT uuidv7(), '00000000-0000-7000-8000-000000000000', id, '{fleet}', 1,
            now() + CASE WHEN row_number() OVER () % $1 = 0 THEN -'1 s'::interval ELSE '1 day' END FROM agents""",
)

Statement = Callable[[Connection], Awaitable[object]]


async def measure(system: System, _effort: Effort) -> Measured:
    """Explain each statement on 100,000 agents, 100,000 open orders, a million finished orders and a million states."""
    await system.stop()  # the server would expire the orders
    async with schema_pair(system) as pair, system.session() as connection:
        acting = await pair.make(GROUP, FLEET)
        await pair.fill(FILLING, FINISHED)
        for statement in _FILL:
            await connection.execute(statement, STATES_PER_AGENT)
        await connection.execute("VACUUM ANALYZE")
    engine = open_engine(system.cluster.url, Settings())
    polling = acting[:AT_ONCE]
    async with engine.connect() as opened:
        query = select(orders.c.order_id, orders.c.agent_id).where(is_one_of(orders.c.agent_id, polling))
        owned = [(order_id, agent_id) for order_id, agent_id in await opened.execute(query)]
    plans = {name: await _explain(engine, statement) for name, statement in hot_statements(polling, owned).items()}
    await engine.dispose()
    return Measured({}, plans)


def hot_statements(agents: Sequence[UUID], owned: Sequence[tuple[UUID, UUID]]) -> dict[str, Statement]:
    """Return a function for each hot statement that runs it for these agents and their orders."""
    endings = [Ending(order_id, agent_id, "success", 0, "done", "{}") for order_id, agent_id in owned]
    keys = [(str(agent), "fim", "file", str(number)) for agent in agents for number in (1, STATES_PER_AGENT + 1)]
    command = msgspec.json.decode(
        f"""{{"source": "Engine", "target": {{"id": "{GROUP}", "type": "group"}}, "timeout": 600,
            "action": {{"name": "restart", "args": {{}}}}}}""",
        type=NewCommand,
    )
    expansion = expansion_of(uuid7_at(time.time()), "admin", command, 600)
    return {
        "claim": lambda connection: claim_orders(connection, agents, 60),
        "finish": lambda connection: finish_orders(connection, endings),
        "find-statuses": lambda connection: find_statuses(connection, owned),
        "expire": lambda connection: expire_orders(connection, 5_000),
        "expand": lambda connection: expand_command(connection, expansion, 100),
        "find-states": lambda connection: find_states(connection, keys, 2**40),
        "update-states": lambda connection: update_states(connection, dict.fromkeys(keys[::2], b"{}")),
        "insert-states": lambda connection: insert_states(connection, dict.fromkeys(keys[1::2], b"{}")),
        "login": lambda connection: find_admission(connection, agents[0]),
        "sightings": lambda connection: record_sightings(
            connection, dict.fromkeys(agents, Sighting("192.0.2.1", logged_in=True)), "node"
        ),
    }


async def _explain(engine: Engine, statement: Statement) -> str:
    """Run a statement and return the plans that PostgreSQL logs."""
    messages: list[str] = []
    async with engine.connect() as connection:
        driver = connection.driver
        await connection.execute(text("LOAD 'auto_explain'"))
        for setting in ("log_analyze = on", "log_buffers = on", "log_level = notice", "log_parameter_max_length = 0"):
            await connection.execute(text(f"SET auto_explain.{setting}"))
        await driver.execute("BEGIN")
        await statement(connection)  # loads pages into memory, as in a busy system
        await driver.execute("ROLLBACK")

        def listen(_connection: Any, message: Any) -> None:
            messages.append(str(message.message))

        driver.add_log_listener(listen)
        await connection.execute(text("SET auto_explain.log_min_duration = 0"))
        await driver.execute("BEGIN")
        messages.clear()
        await statement(connection)
        await connection.execute(text("SET auto_explain.log_min_duration = -1"))
        await driver.execute("ROLLBACK")
        driver.remove_log_listener(listen)
    return "\n\n".join(LONG_LITERAL.sub("'{…}'", message) for message in messages) + "\n"


MEASUREMENT = Measurement("plans", (), measure)


@click.command()
def main() -> None:
    """Write the plans."""
    [(_, measured)] = measured_together([MEASUREMENT], Effort())
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, plan in measured.raw.items():
        (FOLDER / f"{name}.txt").write_text(str(plan))


if __name__ == "__main__":
    main()
