"""The time of a command to 1,000, 10,000 and 100,000 agents, compared with the bare INSERT … SELECT of its orders."""

from functools import partial

from bench.figures import Effort, Figure, Measured, Measurement, Rates, medians
from bench.load import connect, timed
from bench.messages import submit
from bench.system import System

SIZES = (1_000, 10_000, 100_000)
ROUNDS = 3

_BARE = """
    INSERT INTO orders (order_id, request_id, agent_id, agent_groups, expires_at)
    SELECT uuidv7(), '00000000-0000-7000-8000-000000000000', agent_id, ARRAY[group_name], now() + interval '1 h'
    FROM group_members WHERE group_name = $1"""


async def measure(system: System, effort: Effort) -> Measured:
    """Alternate the bare statement and the command, each on an empty table, for groups of three sizes."""
    management = await connect(system, system.management_port)
    ratios: dict[str, float] = {}
    raw: dict[str, object] = {}
    async with system.session() as connection:
        for size in SIZES:
            group = f"group{size}"
            await system.enroll(size, group)
            request = submit(system.administrator_token(), group, "group")
            seconds: Rates = {"bare": [], "command": []}
            for _ in range(min(ROUNDS, effort.rounds)):
                await _empty(system)
                seconds["bare"].append(await timed(partial(connection.execute, _BARE, group)))
                await _empty(system)
                seconds["command"].append(await timed(partial(management.send, request)))
            middle = medians(seconds)
            ratios[group] = middle["command"] / middle["bare"]
            raw[group] = {"seconds": seconds, "ratio": ratios[group], "orders_per_second": size / middle["command"]}
    management.close()
    return Measured({"expansion_100k_vs_insert": ratios["group100000"]}, raw)


async def _empty(system: System) -> None:
    async with system.session() as connection:
        await connection.execute("TRUNCATE orders")
    await system.checkpoint()


MEASUREMENT = Measurement("expansion", (Figure("expansion_100k_vs_insert", 2.5, 2.5, "ratio", is_most=True),), measure)
