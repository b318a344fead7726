"""Three servers lose one, lose their quorum, and recover: every acknowledged event is stored exactly once."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from signal import SIGKILL
from threading import Event, Thread
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import nats
import pytest
from support.batches import stateless
from support.events import stored_lines
from support.nats import NatsServer, nats_servers, stream_settings, streaming_server
from support.relays import relay, started_relay
from support.server import Server, environment
from support.waiting import PATIENCE, wait_until

from comms_api.events.jetstream.connection import STREAM

AGENTS = 6
EVENTS = 5
TIMEOUT_SECONDS = 2.0


@pytest.fixture(scope="module")
def servers(scratch: Path) -> Iterator[Sequence[NatsServer]]:
    with nats_servers(scratch / "nats three", 3) as running:
        yield running


@pytest.fixture(scope="module")
def settings(servers: Sequence[NatsServer]) -> dict[str, Any]:
    return {**stream_settings(servers), "nats_timeout_seconds": TIMEOUT_SECONDS}


@pytest.fixture(scope="module")
def server(folder: Path, database_url: str, settings: dict[str, Any]) -> Iterator[Server]:
    with streaming_server(folder, database_url, **settings) as running:
        yield running


@pytest.fixture(scope="module")
def variables(folder: Path, database_url: str, settings: dict[str, Any]) -> dict[str, str]:
    """The environment of a relay, whose messages another one gets soon after it is killed."""
    return environment(folder, database_url, database_timeout_seconds=2, **settings)


class Sender:
    """An agent that sends one batch after the other, and repeats each until it is acknowledged."""

    def __init__(self, agent_id: UUID, client: httpx.Client) -> None:
        self.agent_id, self._client = agent_id, client
        self.sent = self.acknowledged = self.refused = 0
        self.slowest_seconds = 0.0
        self._stopping = Event()
        self._thread = Thread(target=self._run)

    def start(self) -> "Sender":
        self._thread.start()
        return self

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.sent += 1
            ends_at = time.monotonic() + PATIENCE
            while self.post().status_code != 204:
                self.refused += 1
                assert time.monotonic() < ends_at
                time.sleep(0.3)
            self.acknowledged += 1

    def post(self) -> httpx.Response:
        """Send the batch that is due, whose bytes are always the same."""
        batch = stateless(self.agent_id, *({"batch": self.sent, "n": number} for number in range(EVENTS)))
        started = time.monotonic()
        answer = self._client.post("/events/stateless", content=batch)
        self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - started)
        assert answer.status_code in {204, 503}, answer.text
        assert answer.status_code == 204 or int(answer.headers["retry-after"]) >= 1
        return answer

    def stop(self) -> None:
        """Let the agent finish its batch, then end it."""
        self._stopping.set()
        self._thread.join(timeout=PATIENCE)
        assert not self._thread.is_alive()


def _report(title: str, senders: Sequence[Sender], found: Counter[tuple[UUID, int, int]]) -> None:
    sent, acknowledged, refused = (
        sum(getattr(sender, name) for sender in senders) for name in ("sent", "acknowledged", "refused")
    )
    slowest = max(sender.slowest_seconds for sender in senders)
    print(
        f"\n{title}: {sent} batches of {EVENTS} events sent, {acknowledged} acknowledged, {refused} times 503, slowest "
        f"answer {slowest:.1f} s; {len(found)} events found, {found.total() - len(found)} of them doubled"
    )


@pytest.fixture
def find(query: Callable[..., list[asyncpg.Record]]) -> Callable[[Sequence[Sender]], Counter[tuple[UUID, int, int]]]:
    """Counts the stored events of some agents by agent, batch and number."""

    def read(senders: Sequence[Sender]) -> Counter[tuple[UUID, int, int]]:
        stored = [
            (sender.agent_id, json.loads(line)) for sender in senders for line in stored_lines(query, sender.agent_id)
        ]
        return Counter((agent_id, event["batch"], event["n"]) for agent_id, event in stored)

    return read


def _all_of(sender: Sender) -> set[tuple[UUID, int, int]]:
    return {(sender.agent_id, batch, n) for batch in range(1, sender.acknowledged + 1) for n in range(EVENTS)}


def _leader(servers: Sequence[NatsServer]) -> NatsServer:
    async def ask() -> str:
        client = await nats.connect([server.url for server in servers])
        info = await client.jetstream().stream_info(STREAM)
        await client.close()
        assert info.cluster is not None
        assert info.cluster.leader is not None
        return info.cluster.leader

    name = asyncio.run(ask())
    return next(server for server in servers if server.name == name)


def _senders(server: Server, management: httpx.Client, name: str, count: int) -> list[Sender]:
    ids = [server.enroll(management, f"{name} {number}") for number in range(count)]
    return [Sender(agent_id, server.log_in(agent_id)) for agent_id in ids]


def _have_more(senders: Sequence[Sender], name: str, count: int) -> Callable[[], bool]:
    """Return a condition: each of the senders has counted `count` more than now."""
    least = [getattr(sender, name) + count for sender in senders]
    return lambda: all(getattr(sender, name) >= minimum for sender, minimum in zip(senders, least, strict=True))


@pytest.mark.faults
def test_killing_the_leader_and_a_relay_under_load_loses_and_duplicates_nothing(
    server: Server,
    management: httpx.Client,
    servers: Sequence[NatsServer],
    variables: dict[str, str],
    find: Callable[[Sequence[Sender]], Counter[tuple[UUID, int, int]]],
) -> None:
    senders = [sender.start() for sender in _senders(server, management, "load", AGENTS)]
    wait_until(_have_more(senders, "acknowledged", 1))
    with started_relay(variables) as killed, started_relay(variables):
        time.sleep(1.5)
        leader = _leader(servers)
        leader.kill()
        killed.send_signal(SIGKILL)
        wait_until(_have_more(senders, "acknowledged", 10))
        leader.start()
        time.sleep(1)
        for sender in senders:
            sender.stop()
        sent = set().union(*map(_all_of, senders))
        wait_until(lambda: sent <= set(find(senders)))
    relay(variables, "postgresql")
    found = find(senders)
    _report("leader and a relay killed", senders, found)
    assert sent <= set(found)
    assert all(count == 1 for count in found.values())


@pytest.mark.faults
def test_without_a_quorum_batches_are_503_and_the_node_recovers_without_a_restart(
    server: Server,
    management: httpx.Client,
    servers: Sequence[NatsServer],
    variables: dict[str, str],
    find: Callable[[Sequence[Sender]], Counter[tuple[UUID, int, int]]],
) -> None:
    senders = [sender.start() for sender in _senders(server, management, "quorum", 3)]
    wait_until(_have_more(senders, "acknowledged", 5))
    for gone in (servers[:2], servers[2:]):
        for one in gone:
            one.kill()
        wait_until(_have_more(senders, "refused", 2))
    wait_until(lambda: _late(management) == ["event stream"])
    is_back = _have_more(senders, "acknowledged", 1)
    for one in servers:
        one.start()
    returned = time.monotonic()
    wait_until(is_back)
    print(f"\nacknowledged again {time.monotonic() - returned:.1f} s after the servers listened")
    wait_until(_have_more(senders, "acknowledged", 5))
    wait_until(lambda: _late(management) == [])
    for sender in senders:
        sender.stop()
    relay(variables, "postgresql")
    found = find(senders)
    _report("two servers, then all three, killed", senders, found)
    assert set().union(*map(_all_of, senders)) <= set(found)
    assert all(count == 1 for count in found.values())


def _late(management: httpx.Client) -> list[str]:
    """Return the duties of the node that are late."""
    [node] = management.get("/nodes").json()
    late: list[str] = node["late"]
    return late
