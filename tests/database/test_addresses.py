"""URLs with one or several hosts: the driver's arguments, refused URLs, and the choice of the host."""

import asyncio
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from support.waiting import PATIENCE

from comms_api.database.address.url import driver_url
from comms_api.database.connect import CONNECT_TIMEOUT_SECONDS, open_engine
from comms_api.database.failures import DatabaseError, LateAnswer, Outage, is_outage
from comms_api.embedded_postgresql.home import server_account
from comms_api.errors import ConfigurationError
from comms_api.settings import Settings

ASKED = {"target_session_attrs": "read-write"}
TWO = {"host": ["a.example", "b.example"], "port": [5432, 5433], "database": "name"} | ASKED


def arguments_of(url: str) -> dict[str, Any]:
    """Return the arguments for asyncpg."""
    _, options = dialect().create_connect_args(driver_url(url))
    return dict(options)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u@h:5432/name", {"user": "u", "host": "h", "port": 5432, "database": "name"}),
        ("postgresql://u:p@h/name?sslmode=require", {"user": "u", "password": "p", "host": "h", "ssl": "require"}),
        ("postgresql+asyncpg://u@/name?host=/a b&port=5432", {"user": "u", "host": "/a b", "port": 5432}),
        ("postgresql://[::1]:6432/name", {"host": "::1", "port": 6432}),
        ("postgresql://a.example,b.example:5433/name", TWO),
        ("postgresql://a.example:5432,b.example:5433/name?target_session_attrs=read-write", TWO),
        ("postgresql://u:p%40:w@a.example,b.example:5433/name", TWO | {"user": "u", "password": "p@:w"}),
        ("postgresql:///name?host=a.example,b.example&port=5432,5433", TWO),
        ("postgresql:///name?host=a.example&host=b.example:5433", TWO),
        ("postgresql://a,b/name?port=6000", {"host": ["a", "b"], "port": [6000, 6000]}),
        ("postgresql://[::1]:1,[fe80::2]/name", {"host": ["::1", "fe80::2"], "port": [1, 5432]}),
        ("postgresql://%2Frun%2Fa:1,%2Frun%2Fb/name", {"host": ["/run/a", "/run/b"], "port": [1, 5432]}),
        ("postgresql:///name?host=/run/a:1,/run/b&port=7", {"host": ["/run/a:1", "/run/b"], "port": [7, 7]}),
        ("postgresql://u:p%40@%2Frun%2Fpostgresql/name", {"user": "u", "password": "p@", "host": "/run/postgresql"}),
        ("postgresql://%2Frun%2Fa:6432/name", {"host": "/run/a", "port": 6432}),
        ("postgresql://h/?dbname=name&user=u", {"host": "h", "database": "name", "user": "u"}),
        ("postgresql://h/n?channel_binding=prefer&gssencmode=disable&client_encoding=UTF8", {"host": "h"}),
        ("postgresql://a,b/n?target_session_attrs=primary", {"target_session_attrs": "primary"}),
        ("postgresql://a,b?sslmode=verify-full", {"host": ["a", "b"], "ssl": "verify-full"}),
    ],
)
def test_a_url_names_one_host_or_several_as_libpq_does(url: str, expected: dict[str, Any]) -> None:
    assert {name: arguments_of(url).get(name) for name in ASKED | expected} == ASKED | expected
    assert driver_url(driver_url(url)) == driver_url(url)
    assert arguments_of(driver_url(url).render_as_string(hide_password=False)) == arguments_of(url)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:secret@a:1,b:x/name",
        "postgresql://u:secret@a:1,/name",
        "postgresql://u:secret@a,b:x:1/name",
        "postgresql://u:secret@a,b,c/name?port=1,2",
        "postgresql://u:secret@a,b/name?port=one",
        "postgresql://u:secret@a:one/name",
        "postgresql://u:secret@a,b/name?target_session_attrs=standby",
        "postgresql://u:secret@a/name?target_session_attrs=any",
        "postgresql://u:secret@a,b/name?sslrootcert=/no/such.pem",
        "postgresql://u:secret@a:65536/name",
        "postgresql://u:secret@a/name?port=0",
        "mysql://u:secret@a,b/name",
        "u:secret@a,b",
    ],
)
def test_a_url_that_cannot_work_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^database_url: ") as caught:
        driver_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("parameter", "reason"),
    [
        ("channel_binding=require", "channel_binding: 'require' is not supported; it can be prefer|disable"),
        ("gssencmode=require", "gssencmode: 'require'"),
        ("hostaddr=127.0.0.1", "hostaddr: not supported"),
        ("connect_timeout=soon", "connect_timeout: expected a whole number, not 'soon'"),
        ("keepalives_idle=-1", "keepalives_idle: "),
        ("conect_timeout=3", "conect_timeout: no such parameter; did you mean connect_timeout?"),
        ("search_path=x", "search_path: no such parameter"),
    ],
)
def test_a_parameter_that_cannot_be_honoured_is_named(parameter: str, reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        driver_url(f"postgresql://u:secret@a/name?{parameter}")
    assert str(caught.value).startswith(f"database_url: {reason}")


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that accepts connections and never answers, as if it hung."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def with_earlier_host(url: str, port: int) -> str:
    """Return the URL with a host on 127.0.0.1 before the actual one."""
    parsed = driver_url(url)
    assert isinstance(parsed.query["host"], str)
    query = {"host": f"127.0.0.1,{parsed.query['host']}", "port": f"{port},{parsed.query['port']}"}
    return parsed.update_query_dict(query).render_as_string(hide_password=False)


@pytest.fixture
def embedded_url(database_url: str) -> str:
    """The module's database, if it is on a Unix socket."""
    if "host" not in make_url(database_url).query:
        pytest.skip("the given server is on TCP")
    return database_url


@pytest.mark.anyio
async def test_a_hanging_host_does_not_delay_the_one_that_answers(embedded_url: str, silent: int) -> None:
    engine = open_engine(with_earlier_host(embedded_url, silent), Settings())
    started = time.monotonic()
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT 1")) == 1
    assert time.monotonic() - started < PATIENCE
    await engine.dispose()


@pytest.mark.anyio
async def test_hosts_that_do_not_answer_are_an_outage_within_seconds(silent: int) -> None:
    engine = open_engine(f"postgresql://127.0.0.1:{silent},127.0.0.1:1/name", Settings())
    with pytest.raises(Outage):
        async with asyncio.timeout(PATIENCE):
            await engine.connect().__aenter__()
    await engine.dispose()


@pytest.mark.anyio
async def test_tls_files_are_read_from_the_paths_in_the_url(tmp_path: Path) -> None:
    (tmp_path / "a ca.pem").write_text("no certificate")
    engine = open_engine(f"postgresql://a,b/name?sslmode=verify-full&sslrootcert={tmp_path}/a+ca.pem", Settings())
    with pytest.raises(DatabaseError) as caught:
        await engine.connect().__aenter__()
    assert isinstance(caught.value.__cause__, ssl.SSLError)
    await engine.dispose()


@pytest.mark.anyio
async def test_the_error_of_a_refusing_host_wins_over_that_of_an_unreachable_one(embedded_url: str) -> None:
    missing = driver_url(with_earlier_host(embedded_url, 1)).set(database="no_such_database")
    engine = open_engine(missing, Settings())
    with pytest.raises(Exception, match="no_such_database"):
        await engine.connect().__aenter__()
    await engine.dispose()


async def read_only_after(url: str, statement: str) -> list[object]:
    """Return the server process of each successive connection of a pool, and whether it is writable."""
    engine, processes = open_engine(url, Settings()), []
    for again in (True, False):
        async with engine.connect() as connection:
            processes.append(await connection.scalar(text("SELECT pg_backend_pid()")))
            if again:
                await connection.execute(text(statement))
    await engine.dispose()
    return processes


@pytest.mark.anyio
async def test_a_connection_whose_server_has_become_read_only_leaves_the_pool(database_url: str) -> None:
    first, second = await read_only_after(database_url, "SET default_transaction_read_only = on")
    assert first != second
    first, second = await read_only_after(database_url, "SET default_transaction_read_only = off")
    assert first == second


@pytest.fixture
def own_database(new_database: Callable[[], str]) -> str:
    """A database that one test may change freely."""
    return new_database()


@pytest.mark.anyio
async def test_a_server_that_is_read_only_is_an_outage(own_database: str) -> None:
    engine = open_engine(own_database, Settings())
    async with engine.begin() as connection:
        name = driver_url(own_database).database
        await connection.execute(text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'))
    await engine.dispose()
    with pytest.raises(Exception, match="read-write") as caught:
        await engine.connect().__aenter__()
    assert is_outage(caught.value)
    await engine.dispose()


@pytest.mark.anyio
async def test_a_statement_that_takes_too_long_ends_and_a_hanging_server_loses_its_connection(
    database_url: str,
) -> None:
    engine = open_engine(database_url, Settings(database_timeout_seconds=0.2))
    async with engine.connect() as connection:
        with pytest.raises(Exception, match="statement timeout") as caught:
            await connection.execute(text("SELECT pg_sleep(600)"))
        assert is_outage(caught.value)
        await connection.execute(text("SET statement_timeout = 0"))
        with pytest.raises(LateAnswer):
            await connection.execute(text("SELECT pg_sleep(600), 'left alone'"))
        assert connection.driver.is_closed()
    async with engine.connect() as connection:
        running = text(
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%left alone%' AND pid <> pg_backend_pid()"
        )
        assert await connection.scalar(running) == 1
    await engine.dispose()


def with_parameters(url: str, **parameters: str) -> str:
    return driver_url(url).update_query_dict(parameters).render_as_string(hide_password=False)


@pytest.mark.anyio
async def test_parameters_of_a_session_reach_the_server(database_url: str) -> None:
    url = with_parameters(
        database_url,
        application_name="fleet",
        options="-c work_mem=7MB -c jit=on",
        passfile="/no/such",
        sslmode="prefer",
    )
    engine = open_engine(url, Settings())
    async with engine.connect() as connection:
        shown = [await connection.scalar(text(f"SHOW {name}")) for name in ("application_name", "work_mem", "jit")]
    await engine.dispose()
    assert shown == ["fleet", "7MB", "off"]  # the program's own settings override `options`


@pytest.mark.anyio
async def test_connect_timeout_overrides_the_default(silent: int) -> None:
    engine = open_engine(f"postgresql://127.0.0.1:{silent}/name?connect_timeout=3600", Settings())
    connecting = asyncio.create_task(engine.connect().__aenter__())
    await asyncio.wait({connecting}, timeout=CONNECT_TIMEOUT_SECONDS + 1)
    assert not connecting.done()
    connecting.cancel()
    await asyncio.gather(connecting, return_exceptions=True)
    await engine.dispose()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [("PGPORT", "many", "'many'"), ("PGSSLMODE", "maybe", "sslmode"), ("PGSSLNEGOTIATION", "maybe", "sslnegotiation")],
)
async def test_a_wrong_variable_of_libpq_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, reason: str
) -> None:
    monkeypatch.setenv(variable, value)
    engine = open_engine("postgresql://127.0.0.1/name", Settings())
    with pytest.raises(ConfigurationError, match=f"^database_url, or a variable such as PGPORT: .*{reason}"):
        await engine.connect().__aenter__()
    await engine.dispose()


@pytest.mark.anyio
async def test_variables_of_libpq_do_not_affect_the_embedded_database(
    monkeypatch: pytest.MonkeyPatch, embedded_url: str, tmp_path: Path
) -> None:
    (tmp_path / "pgpass").write_bytes(b"\xff")
    variables = {"PGSSLMODE": "verify-full", "PGSSLNEGOTIATION": "direct", "PGPORT": "many", "PGHOST": "nowhere"}
    variables |= {"PGPASSFILE": str(tmp_path / "pgpass"), "PGSERVICE": "none", "PGUSER": "u", "PGDATABASE": "d"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    engine = open_engine(embedded_url, Settings())
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT 1")) == 1
    await engine.dispose()


CONNECT = """
import asyncio
from comms_api.database.connect import open_engine
from comms_api.settings import Settings
try:
    asyncio.run(open_engine("postgresql://127.0.0.1:1/name", Settings()).connect().__aenter__())
except Exception as error:
    print(type(error.__cause__).__name__)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a home folder to another user")
def test_a_home_folder_that_cannot_be_entered_is_ignored(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    os.chown(home, server_account("nobody").uid, -1)
    ordinary = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")  # otherwise root enters every folder
    command = (*ordinary, sys.executable, "-c", CONNECT)
    done = subprocess.run(command, env=os.environ | {"HOME": str(home)}, capture_output=True, text=True, check=True)
    assert done.stdout == "ConnectionRefusedError\n"
