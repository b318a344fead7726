"""Submit commands and claim their orders through the stores, and build the services that use the stores."""

import time
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import text

from comms_api.actions.schemas import Schemas
from comms_api.agents.presence import Presence
from comms_api.commands.model import NewCommand
from comms_api.commands.rollout import Rollout
from comms_api.commands.submission.expansion import expand_command, expansion_of
from comms_api.commands.submission.submissions import Submissions
from comms_api.database.connection import Engine
from comms_api.database.listener import Notifier
from comms_api.database.uuid7 import DatabaseClock, uuid7_at
from comms_api.fairness.budgets import CpuBudget
from comms_api.orders.dispatcher import Dispatcher
from comms_api.orders.leases import claim_orders
from comms_api.orders.model import Claimed, CommandTarget
from comms_api.protocol import Action
from comms_api.settings import Settings
from comms_api.tokens.issuer import Tokens
from comms_api.tokens.keyring import Keyring, new_signing_key


async def submit(
    engine: Engine, agents: int, seconds: float = 600, rollout: Rollout | None = None
) -> tuple[UUID, list[UUID]]:
    """Submit a command to new agents; return its id and the agents' ids."""
    request_id, group = uuid7_at(datetime.now(UTC).timestamp()), uuid7_at(1_780_000_000).hex
    ids = [uuid7_at(1_780_000_000) for _ in range(agents)]
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO groups (name) VALUES (:group)"), {"group": group})
        values = {"ids": ids, "group": group}
        await connection.execute(
            text("INSERT INTO agents (id, name, key_hash) SELECT id, id, '' FROM unnest(CAST(:ids AS uuid[])) AS id"),
            values,
        )
        await connection.execute(
            text("INSERT INTO group_members SELECT :group, id FROM unnest(CAST(:ids AS uuid[])) AS id"), values
        )
        command = NewCommand("Engine", CommandTarget("group", group), Action("a"), seconds, rollout=rollout)
        await expand_command(connection, expansion_of(request_id, "tester", command, 3600), 0)
    return request_id, ids


def make_dispatcher(engine: Engine) -> Dispatcher:
    """Return a dispatcher that holds polls and does not claim on its own until it runs."""
    tokens = Tokens(Keyring([new_signing_key()]), 900, time.time)
    return Dispatcher(engine, tokens, Presence(engine, "node"), Settings())


def make_submissions(engine: Engine, notifier: Notifier, dispatcher: Dispatcher | None = None) -> Submissions:
    """Return the service that submits commands, with a dispatcher that holds no poll unless one is given."""
    holding = dispatcher or make_dispatcher(engine)
    return Submissions(engine, DatabaseClock(), notifier, holding, Schemas(CpuBudget(0)), Settings())


async def claim(engine: Engine, ids: list[UUID]) -> list[Claimed]:
    async with engine.begin() as connection:
        return await claim_orders(connection, ids, 600)
