"""The agent chooses one of several servers for each request, fails over, and spreads evenly."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pytest
from support.serving import serving
from support.tls import server_tls
from support.waiting import PATIENCE

from comms_api.client import backoff
from comms_api.client.spool.model import Identity
from comms_api.client.spool.thread import SpoolThread
from comms_api.client.transport import servers as servers_module
from comms_api.client.transport.calls import Call
from comms_api.client.transport.endpoint import Endpoint
from comms_api.client.transport.servers import Servers, rank
from comms_api.client.transport.session import Session

AGENT_ID = str(uuid4())
BATCH = Call("POST", "/events/stateless", b"{}\n")
POLL = Call("GET", "/commands?wait=60", None, PATIENCE)
OK, BUSY, SILENT, DEAD = b"200 OK", b"503 X\r\nRetry-After: 3600", b"", b"-"


class Node:
    """A server whose answers a test can change: a status, `SILENT` (none) or `DEAD` (the connection is closed)."""

    def __init__(self) -> None:
        self.status = OK
        self.paths: list[str] = []
        self.url = ""
        self.is_asked = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        await reader.readexactly(int(head.lower().partition("content-length: ")[2].partition("\r\n")[0] or 0))
        self.paths.append(head.split(" ")[1])
        self.is_asked.set()
        if self.status == SILENT:
            await reader.read()
        elif self.status != DEAD:
            body = b'{"token":"opaque"}'
            length = b"Connection: close\r\nContent-Length: %d" % len(body)
            writer.write(b"HTTP/1.1 %s\r\n%s\r\n\r\n%s" % (self.status, length, body))
        writer.close()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[SpoolThread]:
    opened = SpoolThread(tmp_path / "spool.sqlite", 2**20)
    yield opened
    opened.close()


class Cluster:
    """Two nodes, of which the first is the first choice of the agent."""

    def __init__(self, folder: Path, spool: SpoolThread, return_seconds: float) -> None:
        self.ca = folder / "ca.pem"
        self._tls = server_tls(self.ca)
        self._spool = spool
        self.nodes: list[Node] = []
        self.return_seconds = return_seconds

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        nodes = [Node(), Node()]
        async with AsyncExitStack() as stack:
            for node in nodes:
                port = await stack.enter_async_context(serving(node.serve, tls=self._tls))
                node.url = f"https://localhost:{port}"
            self.nodes = sorted(nodes, key=lambda node: rank(AGENT_ID, Endpoint(node.url)))
            yield

    def servers(self) -> Servers:
        endpoints = [Endpoint(node.url, self.ca, is_direct=True) for node in self.nodes]
        return Servers(endpoints, AGENT_ID, self._spool, self.return_seconds)


Conversation = Callable[[Cluster], Coroutine[None, None, None]]


@pytest.fixture
def converse(tmp_path: Path, spool: SpoolThread, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.setattr(backoff, "FAILOVER_SECONDS", 0.01)

    def run(conversation: Conversation, return_seconds: float = 600) -> None:
        cluster = Cluster(tmp_path, spool, return_seconds)

        async def talk() -> None:
            async with asyncio.timeout(PATIENCE), cluster.running():
                await conversation(cluster)

        asyncio.run(talk())

    return run


def test_a_request_that_a_node_refuses_goes_to_the_other_node_at_once(
    converse: Callable[..., None], spool: SpoolThread
) -> None:
    async def conversation(cluster: Cluster) -> None:
        first, second = cluster.nodes
        async with cluster.servers() as servers:
            session = Session(servers, Identity(AGENT_ID, "k" * 32), spool)
            await session.send(BATCH)
            first.status = BUSY
            await session.send(BATCH)
            await session.send(BATCH)
        assert first.paths == ["/login", *["/events/stateless"] * 2]
        assert second.paths == ["/events/stateless"] * 2

    converse(conversation)


def test_nodes_that_all_refuse_are_asked_once_each_before_their_retry_after(converse: Callable[..., None]) -> None:
    async def conversation(cluster: Cluster) -> None:
        for node in cluster.nodes:
            node.status = BUSY
        async with cluster.servers() as servers:
            assert servers.pause_seconds(1, await servers.ask(BATCH, {})) <= backoff.FIRST_SECONDS
            assert servers.pause_seconds(2, await servers.ask(BATCH, {})) >= 3600
        assert [len(node.paths) for node in cluster.nodes] == [1, 1]

    converse(conversation)


@pytest.mark.parametrize("status", [DEAD, b"302 Found", b"404 Not Found", b"500 X"])
def test_a_node_that_fails_is_left_and_stays_so_after_it_recovers(converse: Callable[..., None], status: bytes) -> None:
    async def conversation(cluster: Cluster) -> None:
        first, second = cluster.nodes
        first.status = status
        async with cluster.servers() as servers:
            await servers.ask(BATCH, {})
            assert (await servers.ask(BATCH, {})) is not None
            first.status = OK
            await servers.ask(BATCH, {})
        assert (len(first.paths), len(second.paths)) == (1, 2)

    converse(conversation)


def test_a_held_poll_leaves_a_node_whose_connections_break(converse: Callable[..., None]) -> None:
    async def conversation(cluster: Cluster) -> None:
        first, second = cluster.nodes
        first.status = SILENT
        async with cluster.servers() as servers:
            poll = asyncio.create_task(servers.ask(POLL, {}))
            await first.is_asked.wait()
            first.status = DEAD
            await servers.ask(BATCH, {})
            assert await poll is None
            answer = await servers.ask(POLL, {})
            assert answer is not None
            assert answer.is_success
        assert second.paths == [POLL.path]

    converse(conversation)


def test_a_poll_of_the_only_server_outlives_another_requests_failure(
    converse: Callable[..., None], spool: SpoolThread
) -> None:
    async def conversation(cluster: Cluster) -> None:
        first, _ = cluster.nodes
        first.status = SILENT
        async with Servers([Endpoint(first.url, cluster.ca, is_direct=True)], AGENT_ID, spool, 600) as servers:
            poll = asyncio.create_task(servers.ask(POLL, {}))
            await first.is_asked.wait()
            first.status = DEAD
            await servers.ask(BATCH, {})
            assert not poll.done()
            poll.cancel()
            with suppress(asyncio.CancelledError):
                await poll

    converse(conversation)


def test_the_agent_returns_to_its_first_choice_when_that_is_ready_again(
    converse: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers_module, "LEAST_CHECK_SECONDS", 0.01)

    async def conversation(cluster: Cluster) -> None:
        first, second = cluster.nodes
        first.status = DEAD
        async with cluster.servers() as servers:
            await servers.ask(BATCH, {})
            await servers.ask(BATCH, {})
            await servers.wait_and_check()
            assert servers.url == second.url
            first.status = OK
            while servers.url != first.url:
                await servers.wait_and_check()
        assert set(first.paths) == {BATCH.path, "/ready"}

    converse(conversation, return_seconds=0.01)


def test_a_hint_lets_the_agent_leave_a_node_that_is_not_ready(
    converse: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers_module, "LEAST_CHECK_SECONDS", 0.01)

    async def conversation(cluster: Cluster) -> None:
        first, second = cluster.nodes
        async with cluster.servers() as servers:
            await servers.ask(BATCH, {})
            assert servers.url == first.url
            first.status = BUSY
            servers.check_soon()
            await servers.wait_and_check()
            assert servers.url == second.url

    converse(conversation)


@pytest.mark.parametrize(("return_seconds", "remembered"), [(600, 1), (0, 0)])
def test_a_restarted_agent_begins_with_the_last_good_node_unless_that_was_long_ago(
    converse: Callable[..., None], return_seconds: float, remembered: int
) -> None:
    async def conversation(cluster: Cluster) -> None:
        cluster.nodes[0].status = DEAD
        async with cluster.servers() as servers:
            await servers.ask(BATCH, {})
            await servers.ask(BATCH, {})
        async with cluster.servers() as servers:
            assert servers.url == cluster.nodes[remembered].url

    converse(conversation, return_seconds)


def test_agents_spread_evenly_and_those_of_a_lost_server_over_all_others() -> None:
    nodes = [Endpoint(f"https://node{number}:27000") for number in range(4)]
    ranked = [sorted(nodes, key=lambda node, agent=agent: rank(str(agent), node)) for agent in range(4_000)]
    assert all(900 < count < 1_100 for count in Counter(first for first, *_ in ranked).values())
    seconds = Counter(second for first, second, *_ in ranked if first == nodes[0])
    assert all(250 < count < 420 for count in seconds.values())
    assert len(seconds) == 3


def test_priorities_and_weights_decide_how_many_agents_choose_a_server_first() -> None:
    weights = {"a": (0, 60), "b": (0, 20), "c": (0, 0), "d": (1, 100)}
    nodes = [
        Endpoint(f"https://{name}", priority=priority, weight=weight) for name, (priority, weight) in weights.items()
    ]
    ranked = [sorted(nodes, key=lambda node, agent=agent: rank(str(agent), node)) for agent in range(4_000)]
    first = Counter(order[0].url for order in ranked)
    assert 2_850 < first["https://a"] < 3_150
    assert first["https://c"] < 10
    assert all(order[-1].url == "https://d" for order in ranked)
