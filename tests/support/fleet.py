"""A simulated fleet: agents and an operator that send, poll and report as real ones do, and note it in a ledger.

Each lane is a connection of one client. It sends each request again until the server acknowledges it. The lanes run in
the event loop of a separate thread, so a test may block or run its own loop.
"""

import asyncio
import json
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from itertools import count
from threading import Event
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import httpx
from anyio.from_thread import start_blocking_portal

from support.batches import state, stateful, stateless
from support.ledger import Ledger, Tally
from support.raw import Answer
from support.server import KEY
from support.waiting import PATIENCE

ANSWER_SECONDS = 45.0
BATCH_EVENTS = 5
LOST = (OSError, EOFError, TimeoutError, ValueError)
"""The errors of a lost connection: TLS errors are `OSError`, half a status line is a `ValueError`."""

LAST_STATE = "last"
"""The id of the state that each batch of an agent updates with its number."""


@dataclass(frozen=True)
class Pace:
    """The seconds between two requests of a lane, between two attempts, and while a poll is held."""

    pause_seconds: float
    retry_seconds: float
    poll_seconds: float


@dataclass(frozen=True)
class Request:
    """A request, and the items that its acknowledgement covers."""

    method: str
    path: str
    body: bytes = b""
    items: tuple[str, ...] = ()
    accepted: int = 200
    needs_token: bool = True
    headers: Mapping[str, str] = field(default_factory=dict)


Work: TypeAlias = Callable[[], Coroutine[Any, Any, None]]
RequestKind: TypeAlias = Callable[[UUID, int], Request]
"""Returns an agent's request with a number. The name of the function is the kind in the ledger."""


def events(agent_id: UUID, number: int) -> Request:
    """Send events under an idempotency key, as the reference agent does."""
    keys = tuple(f"{agent_id} {number} {event}" for event in range(BATCH_EVENTS))
    body, headers = stateless(agent_id, *({"key": key} for key in keys)), {"Idempotency-Key": str(number)}
    return Request("POST", "/events/stateless", body, keys, 204, headers=headers)


def states(agent_id: UUID, number: int) -> Request:
    """Create one state, and write the number to the state `LAST_STATE`."""
    key = f"{agent_id} {number}"
    items = state(str(number), "update", {"key": key}), state(LAST_STATE, "update", {"number": number})
    return Request("POST", "/events/stateful", stateful(agent_id, *items), (key,))


def logins(agent_id: UUID, number: int) -> Request:
    body = json.dumps({"uuid": str(agent_id), "key": KEY}).encode()
    return Request("POST", "/login", body, (str(number),), needs_token=False)


class Connection:
    """A connection that is opened when it is needed, and again after it has broken."""

    def __init__(self, tls: ssl.SSLContext, port: int) -> None:
        self._tls = tls
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: Request, token: str) -> Answer:
        """Return the answer; without one, raise an error of `LOST`."""
        headers = {"Host": "localhost", **request.headers, "Content-Length": str(len(request.body))}
        headers |= {"Authorization": f"Bearer {token}"} if token else {}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                if self._streams is None:
                    self._streams = await asyncio.open_connection("127.0.0.1", self._port, ssl=self._tls)
                reader, writer = self._streams
                writer.write(f"{request.method} {request.path} HTTP/1.1\r\n{head}\r\n".encode() + request.body)
                await writer.drain()
                return await self._read(reader)
        except LOST:
            self.close()
            raise

    async def _read(self, reader: asyncio.StreamReader) -> Answer:
        status, *fields = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in fields)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if headers.get("connection") == "close":
            self.close()
        return Answer(int(status.split()[1]), headers, body)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


class Session:
    """The token of one client, which its lanes share; an agent logs in for it."""

    def __init__(self, agent_id: UUID | None = None, token: str = "") -> None:
        self._agent_id = agent_id
        self._token = token
        self._lock = asyncio.Lock()
        self._logins = Tally(agent_id, "logins")

    async def token(self, lane: "Lane") -> str:
        async with self._lock:
            if not self._token and self._agent_id is not None:
                answer = await lane.insist(logins(self._agent_id, 0), self._logins)
                self._token = json.loads(answer.body)["token"]
            return self._token

    def forget(self, token: str) -> None:
        """Log in again before the next request, unless another lane has done so."""
        if token == self._token:
            self._token = ""


@dataclass
class Lane:
    """A connection of one client, with one request at a time."""

    connection: Connection
    session: Session
    retry_seconds: float

    async def insist(self, request: Request, tally: Tally) -> Answer:
        """Send a request until the server acknowledges it, and return that answer."""
        while True:
            token = await self.session.token(self) if request.needs_token else ""
            try:
                answer = await self.connection.ask(request, token)
            except LOST:
                tally.connections_lost += 1
            else:
                if answer.status == request.accepted:
                    tally.acknowledge(request.items)
                    return answer
                tally.refuse(answer)
                if answer.status == HTTPStatus.UNAUTHORIZED:
                    self.session.forget(token)
            await asyncio.sleep(self.retry_seconds)


class Fleet:
    """Simulated agents and operators of one server or balancer."""

    def __init__(self, tls: ssl.SSLContext, agent_port: int, pace: Pace) -> None:
        self.ledger = Ledger()
        self._tls = tls
        self._agent_port = agent_port
        self._pace = pace
        self._sessions: dict[UUID, Session] = {}
        self._sending: list[Work] = []
        self._polling: list[Work] = []
        self._senders: list[Future[None]] = []
        self._stopping = Event()

    def send(self, agent_id: UUID, *kinds: RequestKind) -> None:
        """Add a lane that sends requests of these kinds in turn."""
        tallies = [self.ledger.open(agent_id, kind.__name__) for kind in kinds]
        lane = self._agent_lane(agent_id)

        async def send(number: int) -> None:
            position = number % len(kinds)
            await lane.insist(kinds[position](agent_id, number), tallies[position])

        self._sending.append(partial(self._repeat, lane, send, self._pace.pause_seconds))

    def poll(self, agent_id: UUID) -> None:
        """Add a lane that holds polls, and reports each order that it receives as a success."""
        polls, results = (self.ledger.open(agent_id, kind) for kind in ("polls", "results"))
        lane = self._agent_lane(agent_id)

        async def poll() -> None:
            try:
                while True:
                    answer = await lane.insist(Request("GET", f"/commands?wait={self._pace.poll_seconds}"), polls)
                    if orders := tuple(order["order_id"] for order in json.loads(answer.body)["commands"]):
                        await self._report(lane, orders, results)
            finally:
                lane.connection.close()

        self._polling.append(poll)

    def submit(self, management: httpx.Client, port: int, body: Mapping[str, Any], pause_seconds: float) -> None:
        """Add a lane that submits a command repeatedly with the client's token; its items are the ids of the orders."""
        token = management.headers["Authorization"].removeprefix("Bearer ")
        tally, lane = self.ledger.open(None, "orders"), self._lane(port, Session(token=token))
        content, run = json.dumps(body).encode(), uuid4().hex

        async def submit(number: int) -> None:
            headers = {"Idempotency-Key": f"{run} {number}"}
            answer = await lane.insist(Request("POST", "/commands", content, accepted=201, headers=headers), tally)
            tally.acknowledged |= dict.fromkeys(json.loads(answer.body)["commands"][0]["order_ids"], time.monotonic())

        self._sending.append(partial(self._repeat, lane, submit, pause_seconds))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the lanes for the block; raise the error of a lane that failed."""
        polls: list[Future[None]] = []
        try:
            with start_blocking_portal() as portal:
                self._senders = [portal.start_task_soon(work) for work in self._sending]
                polls = [portal.start_task_soon(work) for work in self._polling]
                try:
                    yield
                    self.stop_sending()
                finally:
                    for lane in (*self._senders, *polls):
                        lane.cancel()
        finally:
            for lane in (*self._senders, *polls):
                if not lane.cancelled():
                    lane.result()

    def stop_sending(self) -> None:
        """Let each sending lane finish its request, and end it; polls continue."""
        self._stopping.set()
        for sender in self._senders:
            sender.result(PATIENCE)

    def _agent_lane(self, agent_id: UUID) -> Lane:
        return self._lane(self._agent_port, self._sessions.setdefault(agent_id, Session(agent_id)))

    def _lane(self, port: int, session: Session) -> Lane:
        return Lane(Connection(self._tls, port), session, self._pace.retry_seconds)

    async def _repeat(self, lane: Lane, send: Callable[[int], Awaitable[None]], pause_seconds: float) -> None:
        await asyncio.sleep(random.uniform(0, pause_seconds))  # noqa: S311 - spreads the lanes, no secret
        try:
            for number in count():
                if self._stopping.is_set():
                    return
                await send(number)
                await asyncio.sleep(pause_seconds)
        finally:
            lane.connection.close()

    async def _report(self, lane: Lane, orders: tuple[str, ...], tally: Tally) -> None:
        self.ledger.offered.update(orders)
        reports = [{"order_id": order, "result": {"code": 0}} for order in orders]
        body = json.dumps({"results": reports}).encode()
        answer = await lane.insist(Request("POST", "/commands/results", body, orders), tally)
        results = [item["result"] for item in json.loads(answer.body)["results"]]
        self.ledger.ended.update(order for order, result in zip(orders, results, strict=True) if result == "updated")
