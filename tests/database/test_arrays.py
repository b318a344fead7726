"""Array literals: PostgreSQL reads what was written."""

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from comms_api.database.arrays import array_literal
from comms_api.database.direct import direct

pytestmark = pytest.mark.anyio

PLAIN = ["fim", "", " padded ", "NULL", "null", "{", "}", "a,b", "\x1f", "\n", "ü€😀", "'", "$1", "%"]
SPECIAL = ['"', '""', '","', "\\", '\\"', "\\n", 'C:\\Program Files\\"x"', '{"a"}']


@pytest.mark.parametrize("texts", [[], ["one"], PLAIN, SPECIAL, PLAIN + SPECIAL, [SPECIAL[0]], [SPECIAL[3]]])
async def test_every_text_comes_back_as_it_was(engine: AsyncEngine, texts: list[str]) -> None:
    async with direct(engine) as connection:
        statement = text("SELECT CAST(CAST(:literal AS text) AS text[])")
        assert await connection.execute(statement, {"literal": array_literal(texts)}) == [(texts,)]
