"""Agents are looked up by a statement on PostgreSQL and on MariaDB, with bound values, read only, in bounded time."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from urllib.parse import quote

import asyncpg
import pytest
from sqlalchemy import make_url
from support.mariadb import PASSWORD, USER, MariaDB, running_mariadb
from support.sources import KEY, settings
from support.waiting import PATIENCE

from comms_api.errors import ConfigurationError
from comms_api.key_requests.answers import BadAnswer
from comms_api.key_requests.model import ExternalAgent, Question, Refusal
from comms_api.key_requests.sources.source import SourceUnavailable
from comms_api.key_requests.sources.sql import SqlSource

pytestmark = pytest.mark.anyio

TABLE = "CREATE TABLE agents (id varchar(36) PRIMARY KEY, name text NOT NULL, ip varchar(40), {} text)"
ROWS = f"""INSERT INTO agents VALUES ('001', 'web-1', '192.168.1.100', '{KEY}'),
    ('002', 'twin-1', '192.168.1.101', 'another key'), ('003', 'twin-2', '192.168.1.101', 'a third key'),
    ('004', 'no-address', NULL, 'key')"""


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariaDB]:
    with running_mariadb() as server:
        server.execute("USE agents", TABLE.format("`key`"), ROWS)
        yield server


@pytest.fixture(scope="module")
def mariadb_url(mariadb: MariaDB) -> str:
    return f"mysql://{USER}:{quote(PASSWORD)}@127.0.0.1:{mariadb.port}/agents"


@pytest.fixture(scope="module")
def postgresql_url(new_database: Callable[[], str]) -> str:
    url = new_database().replace("postgresql+asyncpg://", "postgresql://")

    async def fill() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute("DROP TABLE agents CASCADE")
        await connection.execute(TABLE.format("key"))
        await connection.execute(ROWS)
        await connection.close()

    asyncio.run(fill())
    return url


@pytest.fixture(params=["postgresql_url", "mariadb_url"])
def url(request: pytest.FixtureRequest) -> str:
    name: str = request.getfixturevalue(request.param)
    return name


@pytest.fixture
async def source(url: str) -> AsyncIterator[SqlSource]:
    source = SqlSource(url, settings())
    yield source
    await source.close()


async def reason_of(url: str, statement: str, seconds: float = PATIENCE) -> str:
    source = SqlSource(url, settings(statement=statement))
    try:
        with pytest.raises(SourceUnavailable) as failed:
            await source.ask(Question("id", "001"), seconds)
    finally:
        await source.close()
    return failed.value.reason


async def test_the_row_is_the_answer(source: SqlSource) -> None:
    known = ExternalAgent("001", "web-1", "192.168.1.100", KEY)
    for kind, value in (("id", "001"), ("ip", "192.168.1.100")):
        assert await source.ask(Question(kind, value), PATIENCE) == known


async def test_no_agent_and_several_agents_are_refused(source: SqlSource) -> None:
    assert await source.ask(Question("id", "009"), PATIENCE) == Refusal(4, "there is no agent of this id")
    assert await source.ask(Question("ip", "192.168.1.101"), PATIENCE) == Refusal(
        5, "there are several agents of this ip"
    )


async def test_a_row_that_is_no_agent_is_a_bad_answer(source: SqlSource) -> None:
    with pytest.raises(BadAnswer) as refused:
        await source.ask(Question("id", "004"), PATIENCE)
    assert "`ip`" in refused.value.reason


async def test_a_statement_without_addresses_finds_nobody_by_address(url: str) -> None:
    source = SqlSource(url, settings(statement="SELECT * FROM agents WHERE id = :id"))
    assert await source.ask(Question("ip", "192.168.1.100"), PATIENCE) == Refusal(4, "there is no agent of this ip")
    assert isinstance(await source.ask(Question("id", "001"), PATIENCE), ExternalAgent)
    await source.close()


async def test_the_session_can_only_read(url: str) -> None:
    assert "read" in (await reason_of(url, "DELETE FROM agents WHERE id = :id")).lower()


async def test_a_slow_statement_is_stopped(url: str) -> None:
    wait = "pg_sleep(3600)" if url.startswith("postgresql") else "sleep(3600)"
    reason = await reason_of(url, f"SELECT {wait} FROM agents WHERE id = :id", 1.0)
    assert "did not answer within 1 s" in reason


async def test_a_faulty_statement_and_a_wrong_password_are_reported_without_secrets(url: str) -> None:
    assert "missing" in await reason_of(url, "SELECT * FROM missing WHERE id = :id")
    wrong = make_url(url).set(username="nobody", password="wr0ng").render_as_string(hide_password=False)
    assert "wr0ng" not in await reason_of(wrong, "SELECT * FROM missing WHERE id = :id")


async def test_a_database_that_does_not_answer_is_unavailable() -> None:
    for scheme in ("postgresql", "mariadb"):
        reason = await reason_of(f"{scheme}://agents:secret@127.0.0.1:1/agents", "SELECT 1 FROM agents WHERE id = :id")
        assert reason.startswith("127.0.0.1/agents: ")
        assert "secret" not in reason


@pytest.mark.parametrize(
    ("url", "statement", "fault"),
    [
        ("sqlite:///agents", "SELECT :id", "must begin with postgresql://"),
        ("nonsense", "SELECT :id", "not a URL"),
        ("postgresql://db/agents", "SELECT 1", "must have the parameter :id"),
    ],
)
async def test_wrong_settings_are_named(url: str, statement: str, fault: str) -> None:
    with pytest.raises(ConfigurationError, match=fault):
        SqlSource(url, settings(statement=statement))
