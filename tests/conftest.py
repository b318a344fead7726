"""A PostgreSQL for the session, migrated databases, and a server for each module."""

import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import asyncpg
import httpx
import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import URL, make_url
from support.databases import PATIENT, complete, migrate, querying, run_sql
from support.leftovers import Guard
from support.server import Server, running_server
from support.waiting import PATIENCE, wait_until

from comms_api.database.address.url import driver_url
from comms_api.database.connect import open_engine
from comms_api.database.connection import Engine
from comms_api.embedded_postgresql.cluster import embedded_postgres

TEMPLATE = "comms_api_template"

# Both depend on time, which says nothing about the code on a busy machine.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the counts of the tests of faults, even if the tests passed."""
    for report in terminalreporter.getreports("passed"):
        if "faults" in report.keywords and report.capstdout:
            terminalreporter.section(report.nodeid.rpartition("::")[2], sep="-")
            terminalreporter.write_line(report.capstdout.strip("\n"))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def guard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guard]:
    """Kills every process of this session, however it ends; a process left after the last test is a failure."""
    guard = Guard()
    guard.watch(tmp_path_factory.getbasetemp())
    yield guard
    try:
        wait_until(
            lambda: not guard.leftovers(),
            says=lambda: f"processes outlived the tests: {guard.leftovers()}",
            patience_seconds=float(os.environ.get("TEST_LEFTOVERS_PATIENCE", PATIENCE)),
        )
    finally:
        guard.close()


@pytest.fixture(scope="session")
def scratch(guard: Guard) -> Iterator[Path]:
    """A folder that other users may enter; the `tmp_path` of root is closed to them."""
    folder = Path(tempfile.mkdtemp(prefix="comms api test "))
    folder.chmod(0o755)
    guard.watch(folder, scratch=True)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session", autouse=True)
def state_folder(scratch: Path) -> Iterator[Path]:
    """The folder for device tokens of the command line, outside the home of the user who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(scratch / "state"))
        yield scratch / "state"


@pytest.fixture(scope="session")
def postgres(scratch: Path) -> Iterator[URL]:
    """The server on which tests create databases: `COMMS_API_DATABASE_URL`, or an embedded one."""
    if url := os.environ.get("COMMS_API_DATABASE_URL"):
        yield driver_url(url)
        return
    with embedded_postgres(scratch / "postgres", durable=False) as cluster:
        yield make_url(cluster.url)


@pytest.fixture(scope="session")
def template(postgres: URL) -> Iterator[str]:
    """The name of a migrated database, which others are copied from."""
    name = f"{TEMPLATE}_{uuid.uuid4().hex[:8]}"
    run_sql(postgres, f"CREATE DATABASE {name}")

    complete(migrate(postgres.set(database=name)))
    yield name
    run_sql(postgres, f"DROP DATABASE {name}")


@pytest.fixture(scope="session")
def new_database(postgres: URL, template: str) -> Iterator[Callable[[], str]]:
    """Creates a copy of the migrated database and returns its URL."""
    names: list[str] = []

    def create() -> str:
        names.append(f"comms_api_test_{uuid.uuid4().hex[:12]}")
        run_sql(postgres, f"CREATE DATABASE {names[-1]} TEMPLATE {template} STRATEGY file_copy")
        return postgres.set(database=names[-1]).render_as_string(hide_password=False)

    yield create
    for name in names:
        run_sql(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def database_url(new_database: Callable[[], str]) -> str:
    return new_database()


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[Engine]:
    """An engine on the module's database."""
    opened = open_engine(database_url, PATIENT)
    yield opened
    await opened.dispose()


@pytest.fixture(scope="module")
def query(database_url: str) -> Callable[..., list[asyncpg.Record]]:
    """Runs one statement on the module's database."""
    return querying(database_url)


@pytest.fixture(scope="module")
def folder(scratch: Path) -> Path:
    """A new folder for a server."""
    path = scratch / uuid.uuid4().hex[:8]
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def server(folder: Path, database_url: str) -> Iterator[Server]:
    """A node that the tests of a module share."""
    with running_server(folder, database_url, lease_seconds=2, sweep_seconds=0.5) as running:
        yield running


@pytest.fixture(scope="module")
def management(server: Server) -> httpx.Client:
    """The administrator's client."""
    return server.management()
