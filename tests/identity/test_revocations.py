"""A node reads the revocations only when they have changed, and then all of them."""

import pytest
from sqlalchemy import text
from support.databases import rolled_back

from comms_api.database.connection import Connection, Engine
from comms_api.revocations.store import find_state, list_revocations, revoke_tokens

HOUR_SECONDS = 3_600.0


async def change(connection: Connection, statement: str) -> tuple[int, int]:
    """Run a statement, and return the state after it."""
    await connection.execute(text(statement))
    return await find_state(connection)


@pytest.mark.anyio
async def test_every_change_of_the_revocations_changes_their_state(engine: Engine) -> None:
    async with rolled_back(engine) as connection:
        states = [await find_state(connection)]
        await revoke_tokens(connection, "first", "second")
        states.append(await find_state(connection))
        await revoke_tokens(connection, "first")
        states.append(await find_state(connection))
        # Another transaction had an earlier time and commits now.
        early = "INSERT INTO revocations (subject, revoked_at) VALUES ('early', now() - interval '1 minute')"
        states.append(await change(connection, early))
        states.append(await change(connection, "DELETE FROM revocations WHERE subject = 'second'"))
        assert len(set(states)) == len(states)
        assert await find_state(connection) == states[-1]
        listed = await list_revocations(connection, HOUR_SECONDS)
        assert set(listed) == {"early", "first"}
        assert listed["early"] < listed["first"]
        assert set(await list_revocations(connection, 30.0)) == {"first"}
