"""Backups and restores that fail change nothing and say why in one line."""

import json
import stat
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import pytest
import zstandard
from sqlalchemy import URL, make_url
from support.backups import comms_api, failing, rewrite, succeeding
from support.databases import querying, run_sql
from support.server import environment, running_server
from support.waiting import PATIENCE, wait_until

from comms_api.backup.archive import FILE_BYTES_MAXIMUM, open_archive
from comms_api.backup.programs import find_programs
from comms_api.database.revisions import newest_revision
from comms_api.errors import CommsError, ConfigurationError

DATA = "database/data.sql.zst"


@dataclass
class Node:
    """A node that has been stopped, and its backup."""

    folder: Path
    url: str
    environment: dict[str, str]
    file: Path

    def agents(self) -> int:
        return len(querying(self.url)("SELECT FROM agents"))

    def new(self, name: str = "") -> Path:
        return self.folder / (name or f"{uuid.uuid4().hex}.zip")


@pytest.fixture(scope="module")
def node(folder: Path, new_database: Callable[[], str]) -> Node:
    url = new_database()
    with running_server(folder, url) as server:
        server.enroll(server.management(), "kept")
    variables, file = environment(folder, url), folder / "backup.zip"
    succeeding(variables, folder, "backup", file)
    return Node(folder, url, variables, file)


@pytest.fixture
def target(postgres: URL, node: Node) -> Iterator[dict[str, str]]:
    """The environment of a fresh node with an empty database."""
    name = f"comms_api_test_{uuid.uuid4().hex[:12]}"
    run_sql(postgres, f"CREATE DATABASE {name}")
    url = postgres.set(database=name).render_as_string(hide_password=False)
    yield environment(node.folder / name, url)
    run_sql(postgres, f"DROP DATABASE {name} WITH (FORCE)")


def query(environment: Mapping[str, str]) -> Callable[..., list[Any]]:
    return querying(environment["COMMS_API_DATABASE_URL"])


def assert_untouched(environment: Mapping[str, str]) -> None:
    """Check that a fresh node has no table, file or draft."""
    assert query(environment)("SELECT FROM pg_class WHERE relnamespace = 'public'::regnamespace") == []
    for setting in ("DATA_DIR", "CERTS_DIR"):
        folder = Path(environment[f"COMMS_API_{setting}"])
        assert not folder.exists() or not list(folder.iterdir())


def test_only_the_owner_can_read_a_backup_and_its_secrets_do_not_show(node: Node) -> None:
    assert stat.S_IMODE(node.file.stat().st_mode) == 0o600
    checked = succeeding(node.environment, node.folder, "restore", node.file, "--check")
    assert f"schema {newest_revision()}, PostgreSQL" in checked


def test_a_backup_replaces_no_file(node: Node) -> None:
    content = node.file.read_bytes()
    assert failing(node.environment, node.folder, "backup", node.file) == (
        f"{node.file} exists: choose another name, or remove it first"
    )
    assert node.file.read_bytes() == content


def test_a_backup_needs_a_node(node: Node, target: dict[str, str]) -> None:
    assert "secret_file: no such file" in failing(target, node.folder, "backup", node.new())
    secret = Path(target["COMMS_API_DATA_DIR"]) / "secret"
    secret.parent.mkdir(parents=True)
    secret.write_text("0" * 64)
    assert "the database is empty: there is nothing to back up" in failing(target, node.folder, "backup", node.new())


def test_a_backup_on_a_full_disk_leaves_no_file(node: Node) -> None:
    disk = node.new("disk")
    disk.mkdir()
    fill = f'mount -t tmpfs -o size=16k none {disk.name} && {{ "$0" "$@"; code=$?; ls -A {disk.name}; exit $code; }}'
    inside = ["/usr/bin/unshare", "-m", "/bin/sh", "-c", fill]
    if subprocess.run([*inside, "/bin/true"], cwd=node.folder, capture_output=True, check=False).returncode:
        pytest.skip("this user cannot mount anything")
    program = [*inside, sys.executable, "-m", "comms_api", "backup", disk / "full.zip"]
    done = subprocess.run(
        program, cwd=node.folder, env=node.environment, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"comms-api: cannot write {disk / 'full.zip'}: [Errno 28] No space left on device\n"


def test_a_backup_that_is_stopped_leaves_no_file(node: Node) -> None:
    folder = node.new("stopped")
    folder.mkdir()
    program = [sys.executable, "-m", "comms_api", "backup", folder / "stopped.zip"]
    with subprocess.Popen(program, cwd=node.folder, env=node.environment) as process:
        wait_until(lambda: list(folder.iterdir()) or process.poll() is not None, pause_seconds=0.001)
        process.send_signal(SIGTERM)
    is_complete = process.returncode == 0  # the signal came too late
    assert is_complete or process.returncode == 128 + SIGTERM
    assert list(folder.iterdir()) == ([folder / "stopped.zip"] if is_complete else [])


def test_a_restore_replaces_a_database_only_on_request(node: Node) -> None:
    reason = failing(node.environment, node.folder, "restore", node.file)
    assert reason.startswith("the database is not empty: nothing was changed; `comms-api restore --replace`")
    run_sql(make_url(node.url), "DELETE FROM agents", "CREATE TABLE newer (id int)")
    (node.folder / "data" / "secret").write_text("1" * 64)
    assert "data/secret differs from the backup: nothing was" in failing(
        node.environment, node.folder, "restore", node.file
    )
    output = succeeding(node.environment, node.folder, "restore", node.file, "--replace")
    assert f"restored: {node.folder / 'data' / 'secret'}\n" in output
    assert "followers" not in output
    assert node.agents() == 1
    assert querying(node.url)("SELECT to_regclass('newer')") == [(None,)]
    assert not list(node.folder.rglob(".*"))
    with running_server(node.folder, node.url) as server:
        assert server.management().get("/agents").status_code == 200


def test_the_operators_files_stay(node: Node, target: dict[str, str]) -> None:
    ours, newer = node.new("ours.pem"), node.new("newer.pem")
    ours.write_text("ours")
    file = node.new()
    succeeding(node.environment | {"COMMS_API_WEBHOOK_CA": str(ours)}, node.folder, "backup", file)
    assert "not restored: the file of webhook_ca" in succeeding(target, node.folder, "restore", file)
    newer.write_text("newer")
    again = target | {"COMMS_API_WEBHOOK_CA": str(newer)}
    assert f"kept: {newer}, which differs" in succeeding(again, node.folder, "restore", file, "--replace")
    assert newer.read_text() == "newer"
    newer.unlink()
    assert f"restored: {newer}\n" in succeeding(again, node.folder, "restore", file, "--replace")
    assert (newer.read_text(), stat.S_IMODE(newer.stat().st_mode)) == ("ours", 0o600)
    authority = Path(target["COMMS_API_CERTS_DIR"]) / "ca.pem"
    assert stat.S_IMODE(authority.stat().st_mode) == 0o644


def test_a_restore_while_a_node_runs_is_refused(node: Node) -> None:
    with running_server(node.folder, node.url):
        reason = failing(node.environment, node.folder, "restore", node.file, "--replace")
    assert reason.endswith("session(s) of nodes use the database: stop all nodes, then try again")
    assert node.agents() == 1


def test_a_database_of_another_program_is_never_replaced(node: Node, target: dict[str, str]) -> None:
    run_sql(make_url(target["COMMS_API_DATABASE_URL"]), "CREATE TABLE foreign_table (id int)")
    reason = failing(target, node.folder, "restore", node.file, "--replace")
    assert reason == "database_url: the database has tables of another program: create an empty one"


def test_a_restore_that_fails_in_the_middle_changes_nothing(node: Node, target: dict[str, str]) -> None:
    def spoil(name: str, content: bytes) -> bytes:
        if name != "database/post-data.sql.zst":
            return content
        sql = zstandard.ZstdDecompressor().decompressobj().decompress(content)
        return zstandard.compress(sql + b"SELECT 1 / 0;\nCREATE TABLE after_the_error ();\n")

    broken = rewrite(node.file, node.new(), spoil)
    assert "division by zero" in comms_api(target, node.folder, "restore", broken).stderr
    assert_untouched(target)
    before = {path: path.read_bytes() for path in node.folder.glob("data/*")}
    assert "division by zero" in comms_api(node.environment, node.folder, "restore", broken, "--replace").stderr
    assert node.agents() == 1
    assert {path: path.read_bytes() for path in node.folder.glob("data/*")} == before


def test_a_restore_whose_files_cannot_be_written_changes_nothing(node: Node, target: dict[str, str]) -> None:
    blocked = target | {"COMMS_API_CERTS_DIR": "/dev/null/certs"}
    assert "cannot read /dev/null/certs" in failing(blocked, node.folder, "restore", node.file)
    assert_untouched(target)


def changed_manifest(node: Node, change: Callable[[dict[str, Any]], None]) -> Path:
    def rewritten(name: str, content: bytes) -> bytes:
        if name != "manifest.json":
            return content
        manifest = json.loads(content)
        change(manifest)
        return json.dumps(manifest).encode()

    return rewrite(node.file, node.new(), rewritten)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda manifest: manifest.update(format=2), "the backup has format 2 and this release reads format 1"),
        (lambda manifest: manifest["origin"].update(revision="9999"), "its schema has revision 9999, but this release"),
        (lambda manifest: manifest["origin"].update(server_major=99), "and the backup is of PostgreSQL 99: use"),
        (lambda manifest: manifest["origin"].update(schema="other"), "the backup has the schema other: set the search"),
        (
            lambda manifest: manifest.update(programs_major=99),
            "no pg_dump and psql of PostgreSQL 99 or newer were found",
        ),
        (lambda manifest: manifest["members"].pop(DATA), "its members are not those of its manifest"),
        (lambda manifest: manifest["members"][DATA].update(sha256="0"), f"the checksum of {DATA} is wrong"),
        (lambda manifest: manifest.update(members=[]), "Expected `object`, got `array`"),
    ],
)
def test_the_manifest_is_checked_first(
    node: Node, target: dict[str, str], change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    assert reason in failing(target, node.folder, "restore", changed_manifest(node, change))
    assert_untouched(target)


def add_member(archive: ZipFile, name: str, content: bytes = b"x", mode: int = 0o600) -> None:
    info = ZipInfo(name)
    info.external_attr = mode << 16
    archive.writestr(info, content)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda archive: add_member(archive, "../../etc/cron.d/x"),
        lambda archive: add_member(archive, "/etc/passwd"),
        lambda archive: add_member(archive, "files/../secret"),
        lambda archive: add_member(archive, "files/nats_ca", b"/etc/shadow", stat.S_IFLNK | 0o777),
        lambda archive: add_member(archive, "files/nats_ca", bytes(FILE_BYTES_MAXIMUM + 1)),
        lambda archive: archive.writestr("files/nats_ca", bytes(2**16), ZIP_DEFLATED),
    ],
)
def test_a_member_that_a_backup_does_not_have_is_refused(
    node: Node, target: dict[str, str], spoil: Callable[[ZipFile], None]
) -> None:
    file = node.new()
    file.write_bytes(node.file.read_bytes())
    with ZipFile(file, "a") as archive:
        spoil(archive)
    assert f"{file} is damaged, or is no backup of comms-api: " in failing(target, node.folder, "restore", file)
    assert_untouched(target)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(node: Node, target: dict[str, str]) -> None:
    file = node.new()
    file.write_bytes(node.file.read_bytes())
    with ZipFile(file, "a") as archive:
        archive.writestr("files/secret", "another")
    assert "it has members that a backup does not have" in failing(target, node.folder, "restore", file)


def test_a_damaged_file_is_refused_wherever_the_damage_is(node: Node) -> None:
    whole, file = node.file.read_bytes(), node.new()
    step = len(whole) // 12
    damaged = [whole[:cut] for cut in range(0, len(whole), step)]
    damaged += [whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :] for at in range(40, len(whole) - 400, step)]
    for content in damaged:
        file.write_bytes(content)
        with pytest.raises(CommsError, match=" is damaged, or is no backup"), open_archive(file) as archive:
            archive.verify(lambda pieces, _total: iter(pieces))


def test_a_missing_file_is_an_error_in_one_line(node: Node) -> None:
    reason = failing(node.environment, node.folder, "restore", "nowhere.zip", "--check")
    assert reason == "cannot read nowhere.zip: No such file or directory"


def test_missing_programs_are_named() -> None:
    with pytest.raises(ConfigurationError, match="no pg_dump and psql of PostgreSQL 99 or newer were found"):
        find_programs(99)
