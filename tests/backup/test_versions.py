"""Backups of an older PostgreSQL, made and restored with its own programs or with newer ones."""

import asyncio
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL
from support.databases import migrate, querying, run_sql
from support.ports import free_ports
from support.replication import INITDB, Postgres
from support.server import new_id

from comms_api.backup import programs
from comms_api.backup.archive import open_archive
from comms_api.backup.dump import back_up
from comms_api.backup.files import describe_settings
from comms_api.backup.restoration import restore
from comms_api.database.address.url import driver_url
from comms_api.embedded_postgresql.home import make_server_directory, server_account
from comms_api.errors import ConfigurationError
from comms_api.settings import Settings, load_settings

DEBIAN = Path("/usr/lib/postgresql/15/bin")


@pytest.fixture(scope="module")
def older(scratch: Path) -> Iterator[Postgres]:
    """PostgreSQL 15 with an agent in its database."""
    if not DEBIAN.exists():
        pytest.skip("PostgreSQL 15 of Debian is missing")
    account, home = server_account("nobody"), scratch / "older"
    make_server_directory(home, account)
    home.chmod(0o755)
    server = Postgres(home / "cluster", account, DEBIAN, *free_ports(1))
    server.run("initdb", *INITDB, "-D", server.folder)
    server.start()
    try:
        for name in ("comms_api", "own", "newer"):
            server.query(f"CREATE DATABASE {name}", database="postgres")
        asyncio.run(migrate(server.url))
        server.query("INSERT INTO agents (id, name, key_hash) VALUES ($1, 'old', '')", new_id())
        yield server
    finally:
        server.stop()


def unwatched(pieces: Iterable[bytes], _total: int | None) -> Iterator[bytes]:
    yield from pieces


def url_of(server: Postgres, database: str) -> str:
    return f"postgresql://comms_api@{server.address}/{database}"


def settings_of(folder: Path, url: str) -> Settings:
    (folder / "secret").write_text("0" * 64)
    return Settings(database_url=url, data_dir=folder, secret_file=folder / "secret", certs_dir=folder / "certs")


async def move(source: Settings, target: Settings, file: Path) -> tuple[int, bool]:
    """Back up one database and restore it into another; return pg_dump's version, and whether followers continue."""
    manifest = await back_up(source, file, unwatched)
    with open_archive(file) as archive:
        restored = await restore(target, archive, is_replacing=False, watch=unwatched)
    return manifest.programs_major, restored.keeps_positions


@pytest.mark.parametrize(("database", "major"), [("own", 15), ("newer", 18)])
def test_its_own_programs_and_newer_ones_move_an_older_database(
    older: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: str, major: int
) -> None:
    if database == "newer":
        monkeypatch.setattr(programs, "FOLDERS", ())
        monkeypatch.setenv("PATH", str(tmp_path))
    source, target = (settings_of(tmp_path, url_of(older, name)) for name in ("comms_api", database))
    assert asyncio.run(move(source, target, tmp_path / "file")) == (major, True)
    assert older.query("SELECT name FROM agents", database=database) == [("old",)]


def test_a_newer_server_restores_an_older_backup_and_not_the_reverse(
    older: Postgres, postgres: URL, tmp_path: Path
) -> None:
    run_sql(postgres, "CREATE DATABASE upgraded")
    try:
        url = postgres.set(database="upgraded").render_as_string(hide_password=False)
        old, new = settings_of(tmp_path, older.url), settings_of(tmp_path, url)
        assert asyncio.run(move(old, new, tmp_path / "older")) == (15, False)
        assert [row["name"] for row in querying(url)("SELECT name FROM agents")] == ["old"]
        asyncio.run(migrate(url))
        older.query("CREATE DATABASE back", database="postgres")
        back = settings_of(tmp_path, url_of(older, "back"))
        with pytest.raises(ConfigurationError, match="the server is PostgreSQL 15 and the backup is of PostgreSQL 18"):
            asyncio.run(move(new, back, tmp_path / "newer"))
    finally:
        run_sql(postgres, "DROP DATABASE upgraded WITH (FORCE)")


def test_a_password_is_not_an_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    access = programs.access_to(driver_url("postgresql://me:s%20e'cret@h1:1,h2:2/it's?sslmode=require"))
    assert access.environment["PGPASSWORD"] == "s e'cret"
    [argument] = access.arguments
    assert "cret" not in argument
    assert {r"dbname='it\'s'", "user='me'", "host='h1,h2'", "port='1,2'", "sslmode='require'"} <= set(
        argument.removeprefix("--dbname=").split(" ")
    )


def test_described_settings_are_the_settings(tmp_path: Path) -> None:
    settings = Settings(
        node_name="a.b",
        database_url='postgresql://u:"p\\\t\u20ac😀@h/d',
        nats_servers=("nats://a", "nats://b"),
        workers=3,
        access_log=True,
        sweep_seconds=0.5,
        data_dir=Path('it\'s "here"'),
    )
    file = tmp_path / "settings.toml"
    file.write_bytes(describe_settings(settings))
    assert load_settings({}, file) == settings
