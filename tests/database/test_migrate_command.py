"""`comms-api migrate`, as operators run it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import make_url
from support.databases import querying, run_sql
from support.server import environment

from comms_api.database.revisions import migrations_folder

OBJECTS = """
    SELECT concat(relkind, ' ', relname) AS name FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND NOT relispartition
    UNION SELECT 'function ' || pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION SELECT 'trigger ' || pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
    UNION SELECT 'revision ' || version_num FROM alembic_version"""
ROOT = Path(__file__).parents[2]
NEWEST = max(path.name[:4] for path in (migrations_folder() / "versions").glob("[0-9]*.py"))


def migrate(env: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "comms_api", "migrate", *options]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def objects(url: str) -> set[str]:
    return {row["name"] for row in querying(url)(OBJECTS)}


def test_it_moves_back_and_forth_and_names_the_missing_revisions(folder: Path, new_database: Callable[[], str]) -> None:
    url = new_database()
    env = environment(folder, url)
    complete = objects(url)
    assert migrate(env, "--check").stdout == "the schema is current\n"
    assert migrate(env, "--to", "0010").stdout == "the schema is at revision 0010\n"
    checked = migrate(env, "--check")
    assert checked.returncode == 1
    lines = checked.stdout.splitlines()
    assert [lines[0][:13], lines[-1][:13]] == ["missing: 0011", f"missing: {NEWEST}"]
    assert migrate(env).stdout == "the schema is at revision head\n"
    assert objects(url) == complete


def test_the_printed_statements_do_the_same_and_printing_them_changes_nothing(
    folder: Path, new_database: Callable[[], str]
) -> None:
    url = new_database()
    env = environment(folder, url)
    complete = objects(url)
    assert migrate(env, "--to", "base").returncode == 0
    before = objects(url)
    printed = migrate(env, "--sql")
    assert printed.returncode == 0, printed.stderr
    assert objects(url) == before
    run_sql(make_url(url), printed.stdout)
    assert objects(url) == complete


def test_mistakes_are_one_line(folder: Path, new_database: Callable[[], str]) -> None:
    env = environment(folder, new_database())
    unknown = migrate(env, "--to", "9999")
    assert unknown.returncode == 1
    assert unknown.stderr.startswith("comms-api: database_url: the schema cannot be upgraded: Can't locate revision")
    assert unknown.stderr.count("\n") == 1
    assert migrate(env, "--sql", "--check").returncode == 2
    away = migrate(env | {"COMMS_API_DATABASE_URL": "postgresql://127.0.0.1:1/name"})
    assert away.returncode == 1
    assert away.stderr.startswith("comms-api: database_url: the database cannot be used: ConnectionRefusedError")


def test_it_migrates_the_embedded_database(folder: Path) -> None:
    home = folder / "embedded"
    home.mkdir()
    env = environment(home, None)
    assert migrate(env).stdout == "the schema is at revision head\n"
    assert migrate(env, "--check").stdout == "the schema is current\n"
