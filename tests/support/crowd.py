"""Many agents in one process, and a ledger of what they sent, what was acknowledged, and how long they were cut off.

Each has two connections: one sends a batch after the other, a batch again until it is acknowledged; the other holds a
poll and reports what it brings.
"""

import asyncio
import json
import ssl
import time
from collections import Counter
from dataclasses import dataclass, field
from uuid import UUID

from support.batches import state, stateful, stateless
from support.server import KEY

BATCH_SECONDS = 4.0
BATCH_EVENTS = 5
POLL_SECONDS = 20
ANSWER_SECONDS = 45.0
PAUSE_SECONDS = 0.5
LOST = (OSError, EOFError, TimeoutError, ValueError)
"""What the loss of a connection looks like: TLS errors are `OSError`, and half a head is no number."""


@dataclass
class Kill:
    """The death of a node, and when each agent had its first answer after it."""

    node: str
    at: float
    back: dict[UUID, float] = field(default_factory=dict)


@dataclass
class Ledger:
    """What all agents did."""

    tries: Counter[str] = field(default_factory=Counter)
    """How often each event was sent: more than once when an answer was lost."""
    acknowledged: set[str] = field(default_factory=set)
    states: dict[UUID, int] = field(default_factory=dict)
    """The last state of each agent that was acknowledged."""
    changes: int = 0
    received: Counter[str] = field(default_factory=Counter)
    """How often each order was offered."""
    ended: Counter[str] = field(default_factory=Counter)
    """How often the server said that a report had ended an order."""
    lost: Counter[str] = field(default_factory=Counter)
    """How often a connection broke, by what was under way."""
    statuses: Counter[int] = field(default_factory=Counter)
    kills: list[Kill] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    """How many seconds a lane whose connection broke had none, until a request was sent on the next."""

    def note_answer(self, agent_id: UUID, status: int) -> None:
        self.statuses[status] += 1
        for kill in self.kills:
            if status < 400:
                kill.back.setdefault(agent_id, time.monotonic() - kill.at)


class Lane:
    """One connection that stays open, and is made again when it breaks."""

    def __init__(self, tls: ssl.SSLContext, port: int, ledger: Ledger) -> None:
        self._tls = tls
        self._port = port
        self._ledger = ledger
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._lost_at: float | None = None

    async def ask(self, method: str, path: str, token: str, body: bytes = b"") -> tuple[int, bytes]:
        """Return the status and the body of an answer; one of `LOST` is raised without an answer."""
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                if self._streams is None:
                    self._streams = await asyncio.open_connection("127.0.0.1", self._port, ssl=self._tls)
                reader, writer = self._streams
                writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
                self._recovered()
                return await self._read(reader)
        except LOST:
            self._ledger.lost[path.partition("?")[0]] += 1
            self._lost_at = self._lost_at or time.monotonic()
            self.close()
            raise

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    def _recovered(self) -> None:
        if self._lost_at is not None:
            self._ledger.gaps.append(time.monotonic() - self._lost_at)
            self._lost_at = None

    async def _read(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        status, *fields = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in fields)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if headers.get("connection") == "close":
            self.close()
        return int(status.split()[1]), body


class Agent:
    """One agent."""

    def __init__(self, agent_id: UUID, tls: ssl.SSLContext, port: int, ledger: Ledger) -> None:
        self._id = agent_id
        self._sending, self._polling = Lane(tls, port, ledger), Lane(tls, port, ledger)
        self._ledger = ledger
        self._login = asyncio.Lock()
        self._token = ""
        self._batches = 0

    async def send_until(self, stopping: asyncio.Event, offset_seconds: float) -> None:
        """Send events and states in turn until told to stop; what has been begun is brought to its end."""
        await asyncio.sleep(offset_seconds)
        while not stopping.is_set():
            self._batches += 1
            await (self._send_events() if self._batches % 2 else self._change_state())
            await asyncio.sleep(BATCH_SECONDS)
        self._sending.close()

    async def poll(self) -> None:
        """Hold polls and report orders, until cancelled."""
        try:
            while True:
                answer = json.loads(await self._insist(self._polling, "GET", f"/commands?wait={POLL_SECONDS}"))
                if orders := [order["order_id"] for order in answer["commands"]]:
                    await self._report(orders)
        finally:
            self._polling.close()

    async def _send_events(self) -> None:
        keys = [f"{self._id}-{self._batches}-{number}" for number in range(BATCH_EVENTS)]
        body = stateless(self._id, *({"key": key} for key in keys))
        await self._insist(self._sending, "POST", "/events/stateless", body, keys)
        self._ledger.acknowledged.update(keys)

    async def _change_state(self) -> None:
        body = stateful(self._id, state("s", "update", {"n": self._batches}))
        await self._insist(self._sending, "POST", "/events/stateful", body)
        self._ledger.states[self._id] = self._batches
        self._ledger.changes += 1

    async def _report(self, orders: list[str]) -> None:
        self._ledger.received.update(orders)
        results = [{"order_id": order, "result": {"code": 0}} for order in orders]
        answer = await self._insist(
            self._polling, "POST", "/commands/results", json.dumps({"results": results}).encode()
        )
        outcomes = [item["result"] for item in json.loads(answer)["results"]]
        self._ledger.ended.update(order for order, told in zip(orders, outcomes, strict=True) if told == "updated")

    async def _insist(
        self, lane: Lane, method: str, path: str, body: bytes = b"", keys: list[str] | None = None
    ) -> bytes:
        """Ask again until there is a good answer, and return its body."""
        while True:
            token = await self._good_token(lane)
            self._ledger.tries.update(keys or ())
            try:
                status, answer = await lane.ask(method, path, token, body)
            except LOST:
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            self._ledger.note_answer(self._id, status)
            if status < 300:
                return answer
            assert status in {401, 429, 503}, (status, answer)
            if status == 401 and token == self._token:
                self._token = ""
            await asyncio.sleep(PAUSE_SECONDS)

    async def _good_token(self, lane: Lane) -> str:
        async with self._login:
            while not self._token:
                body = json.dumps({"uuid": str(self._id), "key": KEY}).encode()
                try:
                    status, answer = await lane.ask("POST", "/login", "", body)
                except LOST:
                    status = 0
                if status == 200:
                    self._token = json.loads(answer)["token"]
                else:
                    await asyncio.sleep(PAUSE_SECONDS)
            return self._token
