"""A relay whose database or reader is too slow waits, logs that once, and still ends on SIGTERM."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest
from sqlalchemy import make_url, text
from support.databases import PATIENT, migrate
from support.duties import performing
from support.events import batch_of
from support.nats import NatsServer, nats_servers, urls_of
from support.relays import COMMAND, relay
from support.server import environment, new_id
from support.waiting import PATIENCE, wait_until

from comms_api.database.connect import open_engine
from comms_api.database.uuid7 import uuid7_at
from comms_api.embedded_postgresql.cluster import Cluster, embedded_postgres
from comms_api.events.jetstream.connection import STREAM, JetStream
from comms_api.events.jetstream.messages import encode_message
from comms_api.settings import Settings

MESSAGES = 1500


@pytest.fixture(scope="module")
def cluster(scratch: Path) -> Iterator[Cluster]:
    """A PostgreSQL server that the tests may stop."""
    with embedded_postgres(scratch / "relay postgres", durable=False) as running:
        asyncio.run(migrate(running.url))
        yield running


@pytest.fixture(scope="module")
def servers(scratch: Path) -> Iterator[Sequence[NatsServer]]:
    with nats_servers(scratch / "nats outages", 1) as running:
        yield running


@pytest.fixture(scope="module")
def settings(servers: Sequence[NatsServer]) -> dict[str, Any]:
    return {"nats_servers": urls_of(servers), "nats_replicas": 1, "nats_stream_bytes": 2**26}


@pytest.fixture(scope="module")
def variables(folder: Path, cluster: Cluster, settings: dict[str, Any]) -> dict[str, str]:
    return environment(folder, cluster.url, **settings)


def publish(settings: Mapping[str, Any], count: int, line: bytes) -> None:
    """Publish messages of one event each."""

    async def run(stream: JetStream) -> None:
        for _ in range(count):
            await stream.publish(encode_message(batch_of(uuid7_at(time.time()), new_id(), [line])))

    asyncio.run(with_stream(settings, run))


async def with_stream(settings: Mapping[str, Any], use: Callable[[JetStream], Awaitable[None]]) -> None:
    stream = JetStream(Settings(**settings | {"nats_servers": (settings["nats_servers"],)}))
    async with performing(stream):
        await stream.wait_until_ready(PATIENCE)
        await use(stream)


def waiting(settings: Mapping[str, Any], consumer: str) -> int:
    """Return how many messages a consumer has not acknowledged."""
    counts: list[int] = []

    async def ask(stream: JetStream) -> None:
        info = await stream.context.consumer_info(STREAM, consumer)
        counts.append((info.num_pending or 0) + (info.num_ack_pending or 0))

    asyncio.run(with_stream(settings, ask))
    return counts[0]


def count_events(cluster: Cluster) -> int:
    async def count() -> int:
        engine = open_engine(cluster.url, PATIENT)
        async with engine.connect() as connection:
            number: int = await connection.scalar(text("SELECT coalesce(sum(events), 0) FROM event_batches"))
        await engine.dispose()
        return number

    return asyncio.run(count())


@contextmanager
def started(
    variables: Mapping[str, str], log: Path, *options: str, **streams: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a relay with a separate log during the block."""
    with log.open("wb") as stderr:
        process = subprocess.Popen([*COMMAND, *options], env=variables, stderr=stderr, **streams)
    try:
        yield process
    finally:
        process.kill()
        process.wait(timeout=PATIENCE)


def test_an_outage_and_its_end_are_logged_once_and_sigterm_ends_a_relay_during_it(
    cluster: Cluster, settings: dict[str, Any], variables: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with started(variables, log, "postgresql", "--consumer", "outage") as process:
        publish(settings, 1, b"{}")
        wait_until(lambda: count_events(cluster))
        cluster.stop("immediate")
        try:
            publish(settings, MESSAGES, b"{}")
            wait_until(lambda: "the database is away" in log.read_text())
            time.sleep(2)  # time in which a wrong relay would log a second line
            assert log.read_text().count("the database is away") == 1
        finally:
            cluster.bring_up()
        wait_until(lambda: count_events(cluster) == 1 + MESSAGES)
        wait_until(lambda: log.read_text().count("relay: all is well") == 1)
        cluster.stop("immediate")
        try:
            publish(settings, MESSAGES, b"{}")
            process.send_signal(SIGTERM)
            assert process.wait(timeout=PATIENCE) == 0
        finally:
            cluster.bring_up()


def test_a_relay_that_is_started_before_its_database_waits_for_it(
    cluster: Cluster, settings: dict[str, Any], variables: dict[str, str], tmp_path: Path
) -> None:
    publish(settings, 1, b'{"waited": 1}')
    cluster.stop()
    try:
        with started(variables, tmp_path / "ended", "postgresql") as process:
            wait_until(lambda: "the database is away" in (tmp_path / "ended").read_text())
            process.send_signal(SIGTERM)
            assert process.wait(timeout=PATIENCE) == 0
        with started(variables, tmp_path / "log", "postgresql", "--consumer", "early", "--once") as process:
            wait_until(lambda: "the database is away" in (tmp_path / "log").read_text())
            time.sleep(2)
            cluster.bring_up()
            assert process.wait(timeout=PATIENCE) == 0
    finally:
        cluster.bring_up()
    assert len((tmp_path / "log").read_text().splitlines()) == 2


def test_a_relay_logs_its_recovery_after_its_consumer_was_deleted(
    cluster: Cluster, settings: dict[str, Any], variables: dict[str, str], tmp_path: Path
) -> None:
    log, before = tmp_path / "log", count_events(cluster)

    async def delete(stream: JetStream) -> None:
        await stream.context.delete_consumer(STREAM, "deleted")

    publish(settings, 1, b"{}")
    with started(variables, log, "postgresql", "--consumer", "deleted"):
        wait_until(lambda: count_events(cluster) > before)
        asyncio.run(with_stream(settings, delete))
        wait_until(lambda: "event stream: all is well" in log.read_text())
    assert len(log.read_text().splitlines()) == 2


def test_a_slow_reader_does_not_keep_a_relay_from_ending_and_only_lines_it_read_are_acknowledged(
    settings: dict[str, Any], variables: dict[str, str], tmp_path: Path
) -> None:
    publish(settings, 40, json.dumps({"filled": "x" * 5000}).encode())
    options = ("stdout", "--consumer", "slow")
    hurried = variables | {"COMMS_API_DRAIN_SECONDS": "1", "COMMS_API_DATABASE_TIMEOUT_SECONDS": "1"}
    with started(hurried, tmp_path / "log", *options, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(1)
        process.send_signal(SIGTERM)
        assert process.wait(timeout=PATIENCE) == 0
        lines = (first + process.stdout.read()).splitlines(keepends=True)
        process.stdout.close()
    whole = [json.loads(line)["id"] for line in lines if line.endswith(b"}\n")]
    left = waiting(settings, "slow")
    relayed_later = [json.loads(line)["id"] for line in relay(hurried, *options).splitlines()]
    assert len(relayed_later) == left > 0
    assert not set(whole) & set(relayed_later)


def test_a_closed_standard_output_is_reported_in_one_line(variables: dict[str, str]) -> None:
    command = ["/bin/sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, "stdout"]
    ended = subprocess.run(command, env=variables, stderr=subprocess.PIPE, text=True, check=False, timeout=PATIENCE)
    assert (ended.returncode, ended.stderr) == (1, "comms-api: --to stdout: standard output is closed\n")


def test_an_invalid_consumer_name_is_reported_in_one_line(variables: dict[str, str]) -> None:
    command = [*COMMAND, "stdout", "--consumer", "a b.c>"]
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert ended.returncode == 1
    assert ended.stderr.startswith("comms-api: --consumer: ")
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("changes", [{"username": "stranger"}, {"database": "none"}])
@pytest.mark.parametrize("command", [["events", "relay"], ["serve"]])
def test_a_database_that_refuses_its_url_is_reported_in_one_line(
    cluster: Cluster, variables: dict[str, str], command: Sequence[str], changes: dict[str, str]
) -> None:
    url = make_url(cluster.url).set(**changes).render_as_string()
    environment = variables | {"COMMS_API_DATABASE_URL": url}
    command = [sys.executable, "-m", "comms_api", *command]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("comms-api: database_url: the database cannot be used: ")
