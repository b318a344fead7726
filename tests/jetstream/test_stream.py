"""Events in a stream are acknowledged, and relayed to the table and to lines in order, byte for byte, exactly once."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from signal import SIGTERM, Signals
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import msgspec
import pytest
from support.batches import metadata, stateless
from support.events import batch_of, incompressible, stored_events
from support.keyed import post_keyed
from support.nats import NatsServer, count_messages, nats_servers, stream_settings, streaming_server
from support.others import assert_others_are_served
from support.raw import connect, request
from support.relays import relay, started_relay
from support.server import Server, environment
from support.speed import assert_no_long_step
from support.waiting import PATIENCE, wait_until

from comms_api.batches.keys import BatchKey
from comms_api.errors import ConfigurationError, Malformed
from comms_api.events.jetstream.messages import decode_message, encode_message
from comms_api.events.jetstream.sink import MESSAGES_AT_ONCE
from comms_api.events.sinks import check_sink
from comms_api.settings import load_settings

MAX_PAYLOAD = 8192


@pytest.fixture(scope="module")
def servers(scratch: Path) -> Iterator[Sequence[NatsServer]]:
    with nats_servers(scratch / "nats one", 1, f"max_payload: {MAX_PAYLOAD}") as running:
        yield running


@pytest.fixture(scope="module")
def settings(servers: Sequence[NatsServer]) -> dict[str, Any]:
    return {**stream_settings(servers), "nats_timeout_seconds": 8}


@pytest.fixture(scope="module")
def server(folder: Path, database_url: str, settings: dict[str, Any]) -> Iterator[Server]:
    with streaming_server(folder, database_url, **settings) as running:
        yield running


@pytest.fixture(scope="module")
def variables(folder: Path, database_url: str, settings: dict[str, Any]) -> dict[str, str]:
    return environment(folder, database_url, **settings)


Rows = Callable[[UUID], list[tuple[str, str, bytes]]]


@pytest.fixture(scope="module")
def rows(query: Callable[..., list[asyncpg.Record]]) -> Rows:
    """Returns the stored events of an agent, in order."""

    def read(agent_id: UUID) -> list[tuple[str, str, bytes]]:
        return [(event.module, event.collector, bytes(event.event)) for event in stored_events(query, agent_id)]

    return read


def test_a_batch_is_relayed_to_the_table_in_order_and_byte_for_byte(
    server: Server, management: httpx.Client, variables: dict[str, str], rows: Rows
) -> None:
    agent_id = server.enroll(management, "exact")
    client = server.log_in(agent_id)
    lines = [b'{"n" : 1.0}', '{"text":"é\\u0000\\/ 漢"}'.encode(), b'{ "a":1, "a":2 }', b"{}"]
    odd = json.dumps({"module": "ö.*> x", "collector": ""}).encode()
    body = b"\n".join([metadata(agent_id), b'{"module":"logcollector","collector":"file"}', *lines, odd, b'{"m":1}'])
    assert client.post("/events/stateless", content=body).status_code == 204
    for number in range(50):
        assert client.post("/events/stateless", content=stateless(agent_id, {"n": number})).status_code == 204
    assert rows(agent_id) == []
    relay(variables, "postgresql")
    plain = [("logcollector", "file", line) for line in lines]
    numbers = [("logcollector", "file", json.dumps({"n": number}).encode()) for number in range(50)]
    assert rows(agent_id) == [*plain, ("ö.*> x", "", b'{"m":1}'), *numbers]


def test_a_batch_larger_than_a_message_is_cut_between_events(
    server: Server, management: httpx.Client, variables: dict[str, str], rows: Rows
) -> None:
    agent_id = server.enroll(management, "large")
    client = server.log_in(agent_id)
    lines = [incompressible(350) for _ in range(100)]
    giant = incompressible(MAX_PAYLOAD)
    body = stateless(agent_id, *lines[:50], giant, *lines[50:])
    assert client.post("/events/stateless", content=body).status_code == 204
    relay(variables, "postgresql")
    assert [line for _, _, line in rows(agent_id)] == lines
    [hidden] = management.get("/events/quarantine", params={"agent_id": str(agent_id)}).json()["items"]
    assert hidden["line_bytes"] == len(giant)
    assert "larger than a message" in hidden["reason"]


def test_a_batch_of_very_many_messages_delays_no_client_and_ends_with_its_client(
    server: Server,
    management: httpx.Client,
    servers: Sequence[NatsServer],
    variables: dict[str, str],
    rows: Rows,
) -> None:
    agent_id, quiet = server.enroll(management, "runs"), server.enroll(management, "quiet")
    body = stateless(agent_id, *(incompressible(2_000) for _ in range(4_000)))
    upload, before = request("POST", "/events/stateless", server.token(agent_id), body), count_messages(servers)
    with connect(server.tls, server.agent_port) as connection:
        connection.sendall(upload)
        wait_until(lambda: count_messages(servers) > before + MESSAGES_AT_ONCE)
    assert_others_are_served(server, management, quiet)
    assert_no_long_step(server, "'/events/stateless'")
    relay(variables, "postgresql")
    assert MESSAGES_AT_ONCE <= len(rows(agent_id)) < 4_000


def test_a_run_of_lines_that_are_all_too_long_has_no_message(
    server: Server, management: httpx.Client, variables: dict[str, str], rows: Rows
) -> None:
    agent_id = server.enroll(management, "giants")
    giant = incompressible(MAX_PAYLOAD)
    assert server.log_in(agent_id).post("/events/stateless", content=stateless(agent_id, giant)).status_code == 204
    relay(variables, "postgresql")
    assert rows(agent_id) == []
    hidden = management.get("/events/quarantine", params={"agent_id": str(agent_id)}).json()["items"]
    assert [line["line_bytes"] for line in hidden] == [len(giant)]


def test_redelivered_messages_are_not_stored_again(
    server: Server, management: httpx.Client, variables: dict[str, str], rows: Rows
) -> None:
    agent_id = server.enroll(management, "again")
    client = server.log_in(agent_id)
    for number in range(30):
        client.post("/events/stateless", content=stateless(agent_id, {"n": number}, {"n": number}))
    relay(variables, "postgresql")
    stored = rows(agent_id)
    assert len(stored) == 60
    client.post("/events/stateless", content=stateless(agent_id, {"new": 1}))
    # A consumer with another name gets the whole stream, like a consumer whose acknowledgements were all lost.
    relay(variables, "postgresql", "--consumer", "replay")
    assert rows(agent_id) == [*stored, ("logcollector", "file", b'{"new": 1}')]
    assert management.get("/events/quarantine", params={"agent_id": str(agent_id)}).json()["items"] == []


def test_a_batch_that_was_stored_although_its_agent_was_refused_is_stored_once(
    server: Server,
    management: httpx.Client,
    servers: Sequence[NatsServer],
    variables: dict[str, str],
    rows: Rows,
) -> None:
    agent_id = server.enroll(management, "refused")
    client, batch = server.log_in(agent_id), stateless(agent_id, {"n": 1}, {"n": 2})
    with servers[0].paused():
        answer = client.post("/events/stateless", content=batch)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
    # The server now stores the events that it had received, and then receives the same batch again.
    wait_until(lambda: client.post("/events/stateless", content=batch).status_code == 204)
    relay(variables, "postgresql")
    first = rows(agent_id)
    assert len(first) == 2
    # If the agent repeats an acknowledged batch, it counts as another batch, so its events are stored twice.
    assert client.post("/events/stateless", content=batch).status_code == 204
    relay(variables, "postgresql")
    assert rows(agent_id) == first * 2


def test_lines_on_standard_output_are_the_events_as_the_api_shows_them(
    server: Server, management: httpx.Client, variables: dict[str, str]
) -> None:
    agent_id = server.enroll(management, "lines")
    server.log_in(agent_id).post("/events/stateless", content=stateless(agent_id, *({"n": n} for n in range(5))))
    written = [json.loads(line) for line in relay(variables, "stdout").splitlines()]
    relay(variables, "postgresql")
    shown = management.get("/events", params={"agent_id": str(agent_id)}).json()["items"]
    assert [event for event in written if event["agent_id"] == str(agent_id)] == shown


def wait_until_it_handles_signals(number: Signals, process: subprocess.Popen[str]) -> None:
    """Wait until a process that has just started handles signals."""
    wait_until(lambda: handled_signals(process.pid) >> (number - 1) & 1)


def handled_signals(pid: int) -> int:
    [mask] = re.findall(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return int(mask, 16)


def test_two_relays_share_the_work_and_finish_their_messages_on_sigterm(
    server: Server, management: httpx.Client, variables: dict[str, str], rows: Rows
) -> None:
    agent_id = server.enroll(management, "shared")
    client = server.log_in(agent_id)
    with started_relay(variables) as first, started_relay(variables) as second:
        for number in range(300):
            assert client.post("/events/stateless", content=stateless(agent_id, {"n": number})).status_code == 204
        for process in (first, second):
            wait_until_it_handles_signals(SIGTERM, process)
            process.send_signal(SIGTERM)
        assert [process.wait(timeout=PATIENCE) for process in (first, second)] == [0, 0]
    relay(variables, "postgresql")
    assert [json.loads(line)["n"] for _, _, line in rows(agent_id)] == list(range(300))


def test_a_reader_that_closes_the_pipe_ends_the_relay_with_one_line(
    server: Server, management: httpx.Client, variables: dict[str, str]
) -> None:
    agent_id = server.enroll(management, "pipe")
    server.log_in(agent_id).post("/events/stateless", content=stateless(agent_id, {"n": 1}))
    command = [sys.executable, "-m", "comms_api", "events", "relay", "--to", "stdout", "--consumer", "closed"]
    process = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert "comms-api: standard output: " in process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=PATIENCE) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "nats_servers: "),
        ({"NATS_SERVERS": "nats://localhost", "NATS_CA": "/no/such"}, "nats_ca: "),
        ({"NATS_SERVERS": "nats://localhost", "NATS_CREDENTIALS": "/no/such"}, "nats_credentials: "),
        (
            {"NATS_SERVERS": "nats://localhost", "NATS_CREDENTIALS": __file__},
            "nats_credentials: not a credentials file",
        ),
        ({"NATS_SERVERS": "http://localhost"}, "nats_servers"),
    ],
)
def test_an_unusable_stream_is_reported_with_its_setting(changes: dict[str, str], message: str) -> None:
    environ = {f"COMMS_API_{name}": value for name, value in changes.items()}
    with pytest.raises(ConfigurationError, match=message):
        check_sink(load_settings({"COMMS_API_EVENTS_SINK": "jetstream"} | environ))


def test_the_sink_postgresql_imports_no_module_of_nats() -> None:
    program = "import sys, comms_api.app.node; sys.exit(any(name.split('.')[0] == 'nats' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_without_the_extra_one_line_names_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, package=None: None if name == 'nats' else find(name, package)\n"
    )
    path = ":".join([str(tmp_path), *(part for part in sys.path if part)])
    environment = {"COMMS_API_EVENTS_SINK": "jetstream", "PYTHONPATH": path}
    command = [sys.executable, "-m", "comms_api", "serve"]
    ended = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert ended.returncode == 1
    assert ended.stderr == ("comms-api: events_sink: nats-py is not installed: pip install 'nats-py[nkeys]'\n")


def test_a_message_that_no_node_published_is_malformed() -> None:
    agent_id = UUID(int=7)
    batch = msgspec.structs.replace(batch_of(UUID(int=1), agent_id, [b"{}", b"{}"]), key=BatchKey(b"k" * 16, b"d" * 16))
    message = encode_message(batch)
    assert decode_message(message.headers, message.payload) == batch
    for name in ("Comms-Agent", "Comms-Events", "Comms-First-Id"):
        with pytest.raises(Malformed):
            decode_message({key: value for key, value in message.headers.items() if key != name}, message.payload)
    wrong = (("Agent", "none"), ("Events", "0"), ("Streams", "{"), ("Streams", '{"a\\u0000":[]}'), ("Key", "0" * 62))
    for name, value in wrong:
        with pytest.raises(Malformed):
            decode_message(message.headers | {f"Comms-{name}": value}, message.payload)


def test_a_batch_with_a_key_is_relayed_once_and_another_body_with_the_key_too(
    server: Server, management: httpx.Client, variables: dict[str, str], rows: Rows
) -> None:
    agent_id = server.enroll(management, "keyed")
    token = server.token(agent_id)

    def send(*events: bytes) -> None:
        body = stateless(agent_id, *events)
        assert post_keyed(server, token, "/events/stateless", "k", body).status_code == 204

    large = [incompressible(1_000) for _ in range(10)]  # they take several messages
    for _ in range(2):
        send(b'{"n":1}')
        send(*large)
        relay(variables, "postgresql")
    send(b'{"n":1}')
    send(b'{"n":2}')
    relay(variables, "postgresql")
    assert [event for _, _, event in rows(agent_id)] == [b'{"n":1}', *large, b'{"n":2}']
    faulty = (b"no json", incompressible(MAX_PAYLOAD))
    for _ in range(2):
        send(*faulty)
    hidden = management.get("/events/quarantine", params={"agent_id": str(agent_id)}).json()["items"]
    assert len(hidden) == 2
