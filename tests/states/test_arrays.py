"""PostgreSQL reads from array literals the texts that were written."""

import pytest
from sqlalchemy import text

from comms_api.database.connection import Engine
from comms_api.states.arrays import array_literal

pytestmark = pytest.mark.anyio

PLAIN = ["fim", "", " padded ", "NULL", "null", "{", "}", "a,b", "\x1f", "\n", "ü€😀", "'", "$1", "%"]
SPECIAL = ['"', '""', '","', "\\", '\\"', "\\n", 'C:\\Program Files\\"x"', '{"a"}']


@pytest.mark.parametrize("texts", [[], ["one"], PLAIN, SPECIAL, PLAIN + SPECIAL, [SPECIAL[0]], [SPECIAL[3]]])
async def test_every_text_is_read_as_it_was_written(engine: Engine, texts: list[str]) -> None:
    async with engine.connect() as connection:
        statement = text("SELECT CAST(CAST(:literal AS text) AS text[])")
        assert await connection.execute(statement, {"literal": array_literal(texts)}) == [(texts,)]
