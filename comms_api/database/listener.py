"""Send PostgreSQL notifications, and receive them on one connection that reconnects when it breaks.

A notification may be lost, so its receivers also poll periodically. After each reconnection, every channel's function
is called once. A payload names the node that sent it, which has acted on it already and ignores it. If there are at
most `NAMED_MAXIMUM`, the payload also lists the ids that the notification is about.
"""

import asyncio
import secrets
from collections.abc import Callable, Collection, Mapping
from contextlib import AsyncExitStack
from typing import TypeAlias

from sqlalchemy import text

from comms_api.database.connection import Engine
from comms_api.duties.repeating import Duty

RECONNECT_SECONDS = 0.25
COALESCING_SECONDS = 0.002
"""The time to gather notifications before sending them; this node acts on each at once."""

NAMED_MAXIMUM = 100
"""The most ids in a payload (PostgreSQL allows 8,000 bytes); with more, a notification is about every id."""

About: TypeAlias = Collection[str]
"""The ids that a notification is about; none means every id."""

Channels: TypeAlias = Mapping[str, Callable[[About], None]]
"""The function to call for a notification, by its channel."""

_NOTIFY = text("""
    SELECT pg_notify(channel, payload)
    FROM unnest(CAST(:channels AS text[]), CAST(:payloads AS text[])) AS unsent (channel, payload)""")


class Listener:
    """Calls a channel's function for each of its notifications; ignores notifications of this node's `notifier`."""

    def __init__(self, engine: Engine, channels: Channels, notifier: str) -> None:
        self._engine = engine
        self._channels = channels
        self._notifier = notifier
        self._connected = AsyncExitStack()
        self._has_ended = asyncio.Event()
        self._has_ended.set()

    def duties(self) -> list[Duty]:
        """Return the duty that connects at the start and reconnects whenever the connection has ended."""
        return [Duty("listener", self._listen, wake=self._has_ended, finish=self._disconnect)]

    async def _listen(self) -> None:
        await self._disconnect()
        async with AsyncExitStack() as connecting:
            connection = await connecting.enter_async_context(self._engine.connect())
            driver = connection.driver
            connecting.callback(driver.terminate)  # it must not return to the pool with its listeners
            driver.add_termination_listener(self._on_end)
            connecting.callback(driver.remove_termination_listener, self._on_end)
            for channel in self._channels:
                await driver.add_listener(channel, self._receive)
            self._connected = connecting.pop_all()
        for call in self._channels.values():
            call(())

    async def _disconnect(self) -> None:
        await self._connected.aclose()

    def _on_end(self, _connection: object) -> None:
        asyncio.get_running_loop().call_later(RECONNECT_SECONDS, self._has_ended.set)

    def _receive(self, _connection: object, _pid: int, channel: str, payload: str) -> None:
        sender, *about = payload.split(" ")
        if sender != self._notifier:
            self._channels[channel](about)


class Notifier:
    """Sends notifications after the commits that cause them; many callers share one statement.

    This node acts on each notification at once, through the functions in `local`. NOTIFY does not run in the committing
    transaction, since there it would hold a database-wide lock during the fsync.
    """

    def __init__(self, engine: Engine, local: Channels) -> None:
        self.name = secrets.token_hex(8)
        self._engine = engine
        self._local = local
        self._unsent: dict[str, set[str]] = {}
        self._has_work = asyncio.Event()

    def notify(self, channel: str, about: About = ()) -> None:
        """Notify this node now and the others soon; call it after the commit. Sweeps make up for lost notifications."""
        if channel in self._local:
            self._local[channel](about)
        unsent = self._unsent.get(channel)
        if unsent is None:
            self._unsent[channel] = set(about)
        elif unsent:  # otherwise it is about every id already
            self._unsent[channel] = unsent.union(about) if about else set()
        self._has_work.set()

    def duties(self) -> list[Duty]:
        """Return the duty that sends the notifications; if it fails, the sweeps find the work."""
        return [Duty("notifier", self._send, wake=self._has_work)]

    async def _send(self) -> None:
        await asyncio.sleep(COALESCING_SECONDS)
        self._has_work.clear()
        unsent, self._unsent = self._unsent, {}
        payloads = [" ".join((self.name, *(about if len(about) <= NAMED_MAXIMUM else ()))) for about in unsent.values()]
        async with self._engine.connect() as connection:
            await connection.execute(_NOTIFY, {"channels": list(unsent), "payloads": payloads})
