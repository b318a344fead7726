"""The two examples on real databases, run as an operator would run them."""

import asyncio
import json
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import URL
from support.balancers import install
from support.mariadb import PASSWORD, USER, MariaDB, running_mariadb
from support.sources import KEY, asking_program, settings
from support.waiting import PATIENCE

from comms_api.key_requests.model import ExternalAgent, Question, Refusal
from comms_api.key_requests.requests import KeyRequests

EXAMPLES = Path(__file__).parents[2] / "examples" / "key_requests"
PROGRAM = str(EXAMPLES / "agents_from_sql.py")
TABLE = "CREATE TABLE agents (id text PRIMARY KEY, name text NOT NULL, ip text NOT NULL, key text NOT NULL)"
ROWS = [
    ("001", "web-1", "192.168.1.100", KEY),
    ("002", "twin-1", "192.168.1.101", "another key"),
    ("003", "twin-2", "192.168.1.101", "a third key"),
]
INJECTION = "' OR '1'='1"


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("agents") / "agents.sqlite"
    connection = sqlite3.connect(path)
    connection.execute(TABLE)
    connection.executemany("INSERT INTO agents VALUES (?, ?, ?, ?)", ROWS)
    connection.commit()
    connection.close()
    return str(path)


@pytest.fixture(scope="module")
def postgres_agents(postgres: URL) -> Iterator[str]:
    """The URL of a PostgreSQL server that has the table."""
    url = postgres.set(drivername="postgresql").render_as_string(hide_password=False)
    asyncio.run(_execute(url, "DROP TABLE IF EXISTS agents", TABLE))
    asyncio.run(_insert(url))
    yield url
    asyncio.run(_execute(url, "DROP TABLE agents"))


async def _execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


async def _insert(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.executemany("INSERT INTO agents VALUES ($1, $2, $3, $4)", ROWS)
    await connection.close()


@pytest.fixture(params=["sqlite", "postgres_agents"])
def database(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture(scope="module")
def mariadb(sqlite: str) -> Iterator[MariaDB]:
    """A MariaDB server that has the table."""
    with running_mariadb() as server, sqlite3.connect(sqlite) as connection:
        table = TABLE.replace("key text", "`key` text").replace("id text", "id varchar(36)")
        rows = ", ".join(map(str, connection.execute("SELECT * FROM agents").fetchall()))
        server.execute("USE agents", table, f"INSERT INTO agents VALUES {rows}")
        yield server
    connection.close()


@pytest.fixture(scope="module")
def mysql_program(mariadb: MariaDB, scratch: Path) -> tuple[str, ...]:
    """The Python example, which Debian's Python runs with Debian's driver."""
    defaults = scratch / "agents.cnf"
    defaults.write_text(f"[client]\nuser = {USER}\npassword = {PASSWORD}\n")
    url = f"mysql://127.0.0.1:{mariadb.port}/agents?read_default_file={defaults}"
    return ("/usr/bin/python3", PROGRAM, url)


@pytest.fixture(scope="module")
def php_program(mariadb: MariaDB, scratch: Path) -> tuple[str, ...]:
    """The PHP example, which Debian's PHP runs."""
    settings_file = scratch / "agents.ini"
    dsn = f"mysql:host=127.0.0.1;port={mariadb.port};dbname=agents"
    settings_file.write_text(f'dsn = "{dsn}"\nuser = {USER}\npassword = "{PASSWORD}"\n')
    return (install("php"), str(EXAMPLES / "agents_from_mysql.php"), str(settings_file))


@pytest.fixture(params=["mysql_program", "php_program"])
def mariadb_program(request: pytest.FixtureRequest) -> tuple[str, ...]:
    command: tuple[str, ...] = request.getfixturevalue(request.param)
    return command


@pytest.fixture
def socket(sqlite: str, path: Path) -> Iterator[Path]:
    """The socket of a running example."""
    with running(path, sqlite):
        yield path


@contextmanager
def running(path: Path, database: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, EXAMPLES / "socket_server.py", path, database]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == f"listening on {path}\n".encode()
        try:
            yield process
        finally:
            process.terminate()


def say(*arguments: str) -> str:
    return subprocess.run([sys.executable, PROGRAM, *arguments], capture_output=True, text=True, check=True).stdout


@pytest.mark.anyio
async def test_the_program_answers_from_a_database(database: str) -> None:
    known = ExternalAgent("001", "web-1", "192.168.1.100", KEY)
    questions = [("id", "001"), ("ip", "192.168.1.100"), ("id", "009"), ("ip", "192.168.1.101")]
    async with asking_program((sys.executable, PROGRAM, database)) as asking:
        await asking.check_health()
        answers = await asyncio.gather(*(asking.ask(Question(kind, value)) for kind, value in questions))
    assert answers == [
        known,
        known,
        Refusal(4, "there is no agent of this id"),
        Refusal(5, "there are several agents of this ip"),
    ]


@pytest.mark.anyio
async def test_the_programs_answer_from_mariadb(mariadb_program: tuple[str, ...]) -> None:
    questions = [("id", "001"), ("ip", "192.168.1.100"), ("id", "009"), ("ip", "192.168.1.101")]
    async with asking_program(mariadb_program) as asking:
        await asking.check_health()
        answers = [await asking.ask(Question(kind, value)) for kind, value in questions]
    assert answers == [
        *[ExternalAgent("001", "web-1", "192.168.1.100", KEY)] * 2,
        Refusal(4, "there is no agent of this id"),
        Refusal(5, "there are several agents of this ip"),
    ]


def test_an_injection_finds_nothing_in_mariadb(mariadb_program: tuple[str, ...]) -> None:
    for kind in ("id", "ip"):
        answer = subprocess.run([*mariadb_program, kind, INJECTION], capture_output=True, check=True).stdout
        assert json.loads(answer) == {"error": 4, "message": f"there is no agent of this {kind}"}


def test_failures_of_the_programs_for_mariadb_have_their_codes(mariadb_program: tuple[str, ...]) -> None:
    wrong = (*mariadb_program[:-1], "mysql://127.0.0.1:1/agents")
    for command, code in (([*wrong, "id", "001"], 3), ([*mariadb_program, "name", "001"], 1)):
        answer = subprocess.run(command, capture_output=True, check=True).stdout
        assert json.loads(answer)["error"] == code


def test_an_injection_finds_nothing(database: str) -> None:
    for kind in ("id", "ip"):
        assert say(database, kind, INJECTION) == f'{{"error": 4, "message": "there is no agent of this {kind}"}}\n'


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 1),
        (["/missing.sqlite", "name", "001"], 1),
        (["/missing.sqlite", "id", "001"], 3),
        (["postgresql://nobody@127.0.0.1:1/x", "id", "001"], 3),
    ],
)
def test_each_failure_of_the_program_has_its_error_code(arguments: list[str], code: int) -> None:
    assert say(*arguments).startswith(f'{{"error": {code}, "message": ')


@pytest.mark.anyio
async def test_the_socket_server_answers_many_at_a_time(socket: Path) -> None:
    asking = KeyRequests(settings(socket=socket, threads=32))
    await asking.check_health()
    numbers = [Question("id", f"{number:04}") for number in range(200)]
    answers = await asyncio.gather(asking.ask(Question("id", "001")), *map(asking.ask, numbers))
    assert answers[0] == ExternalAgent("001", "web-1", "192.168.1.100", KEY)
    assert set(answers[1:]) == {Refusal(4, "there is no agent of this id")}


def test_only_owner_and_group_may_ask_the_socket_server(socket: Path) -> None:
    assert stat.S_IMODE(socket.stat().st_mode) == 0o660


def test_a_second_socket_server_does_not_replace_the_first(socket: Path, sqlite: str) -> None:
    command = [sys.executable, EXAMPLES / "socket_server.py", socket, sqlite]
    second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert "Address already in use" in second.stderr


def test_a_socket_server_replaces_a_dead_one(sqlite: str, path: Path) -> None:
    for _ in range(2):
        with running(path, sqlite) as process:
            process.kill()
        assert path.is_socket()
