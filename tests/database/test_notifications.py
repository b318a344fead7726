"""The committing node is notified at once, the other nodes through PostgreSQL, and each node only once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text
from support.duties import performing
from support.waiting import PATIENCE

from comms_api.database.connection import Engine
from comms_api.database.listener import NAMED_MAXIMUM, About, Listener, Notifier

pytestmark = pytest.mark.anyio

CHANNEL = "comms_api_test"


class Node:
    """A notifier and a listener that count the notifications of each channel."""

    def __init__(self, engine: Engine) -> None:
        self.heard: Counter[str] = Counter()
        self.named: list[set[str]] = []
        channels = {CHANNEL: self._hear(CHANNEL), "other": self._hear("other")}
        self.notifier = Notifier(engine, channels)
        self.listener = Listener(engine, channels, self.notifier.name)

    def _hear(self, channel: str) -> Callable[[About], None]:
        def hear(about: About) -> None:
            self.heard.update([channel])
            self.named.append(set(about))

        return hear


@asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[None]:
    """Run the nodes during the block; a listener reports every channel once when it connects."""
    async with performing(*(part for node in nodes for part in (node.listener, node.notifier))):
        await until(lambda: all(node.heard[CHANNEL] for node in nodes))
        for node in nodes:
            node.heard.clear()
        yield


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - counters have no event
            await asyncio.sleep(0.01)


async def test_the_committing_node_is_notified_before_postgresql(engine: Engine) -> None:
    node = Node(engine)
    node.notifier.notify(CHANNEL)
    assert node.heard == {CHANNEL: 1}


async def test_a_node_ignores_channels_that_it_does_not_listen_to(engine: Engine) -> None:
    node = Node(engine)
    node.notifier.notify("elsewhere")
    assert not node.heard


async def test_every_other_node_is_notified_and_the_sender_only_once(engine: Engine) -> None:
    one, two, three = nodes = [Node(engine) for _ in range(3)]
    async with running(*nodes):
        one.notifier.notify(CHANNEL)
        await until(lambda: two.heard[CHANNEL] + three.heard[CHANNEL] == 2)
        two.notifier.notify("other")
        await until(lambda: one.heard["other"] + three.heard["other"] == 2)
    assert [node.heard for node in nodes] == [{CHANNEL: 1, "other": 1}] * 3


async def test_a_notification_lists_its_ids_unless_there_are_too_many(engine: Engine) -> None:
    one, two = nodes = [Node(engine) for _ in range(2)]
    many = {f"{number:036}" for number in range(NAMED_MAXIMUM)}

    async def heard_after(*notifications: About) -> set[str]:
        two.heard.clear()
        for about in notifications:
            one.notifier.notify(CHANNEL, about)
        await until(lambda: two.heard[CHANNEL] == 1)
        return two.named[-1]

    async with running(*nodes):
        assert await heard_after(["a"], ["b", "a"]) == {"a", "b"}
        assert await heard_after(many) == many
        assert await heard_after(many, ["one more"]) == set()
        assert await heard_after(["a"], (), ["b"]) == set()
        assert await heard_after((), ["b"]) == set()


END_LISTENERS = text("""
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND query LIKE 'LISTEN%'""")


async def test_a_listener_whose_connection_ends_connects_once_and_reports_every_channel(engine: Engine) -> None:
    one, two = nodes = [Node(engine) for _ in range(2)]
    async with running(*nodes):
        for reconnected in (1, 2):
            async with engine.connect() as connection:
                assert await connection.scalar(END_LISTENERS) == 2
            await until(lambda expected=reconnected: [node.heard["other"] for node in nodes] == [expected] * 2)
        one.notifier.notify(CHANNEL)
        await until(lambda: two.heard[CHANNEL] == 3)
    assert [node.heard for node in nodes] == [{CHANNEL: 3, "other": 2}] * 2
