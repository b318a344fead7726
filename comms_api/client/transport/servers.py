"""The servers of one agent: choose one for each request, fail over to another, and return to the first choice.

The agents spread over the servers: each agent ranks them by a hash of its id. It uses the last good server until that
fails, and returns to a better one when that is ready again.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from hashlib import blake2b
from types import TracebackType
from typing import Self, TypeAlias

import httpx
import msgspec

from comms_api.client.backoff import delay_seconds, failover_seconds
from comms_api.client.spool.thread import SpoolThread
from comms_api.client.supervise import wait_for_event
from comms_api.client.transport.calls import REQUEST_SECONDS, Call, describe, is_fault_of_server, read_problem
from comms_api.client.transport.endpoint import Endpoint

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 20.0
READINESS = Call("GET", "/ready")
LEAST_CHECK_SECONDS = 5.0
"""The least time between two checks of the servers, so that hints cannot cause many."""
LEAST_WEIGHT = 0.001
"""The weight of a server of weight 0: it is nearly never the first choice (RFC 2782)."""

Find: TypeAlias = Callable[[], Awaitable[Iterable[Endpoint]]]
"""Finds the endpoints of the servers."""

_LAST_GOOD = "last good server"


class _LastGood(msgspec.Struct, frozen=True):
    """The last good server, and the Unix time at which it was last chosen."""

    url: str
    at: float


class Server:
    """One server, and the connections to it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.url = endpoint.url
        self.client = endpoint.async_client(REQUEST_SECONDS)
        self.failed_at = -math.inf
        """The monotonic time of the last failure."""
        self.retry_at = -math.inf
        """The monotonic time before which other servers are preferred."""
        self._failures = 0
        self._reads: set[asyncio.Timeout] = set()

    async def ask(self, call: Call, headers: Mapping[str, str]) -> httpx.Response:
        """Send a request once; raises `httpx.RequestError` or `OSError` without an answer."""
        timeout = httpx.Timeout(REQUEST_SECONDS, connect=CONNECT_SECONDS, read=call.timeout_seconds)
        try:
            async with asyncio.timeout(None) as limit:
                if call.method == "GET":
                    self._reads.add(limit)
                return await self.client.request(
                    call.method, call.path, content=call.content, headers=headers, timeout=timeout
                )
        except TimeoutError:
            raise httpx.ReadError("another request found that the server does not answer") from None
        finally:
            self._reads.discard(limit)

    def end_reads(self) -> None:
        """End the requests that only read, above all the poll: another server can answer them at any time."""
        for limit in self._reads:
            limit.reschedule(asyncio.get_running_loop().time())
        self._reads.clear()

    def failed(self, retry_after: str | None) -> None:
        """Prefer other servers for a time; failures within that time are the same outage and count once."""
        self.failed_at = time.monotonic()
        self._failures += self.failed_at >= self.retry_at
        self.retry_at = max(self.retry_at, self.failed_at + delay_seconds(self._failures, retry_after))

    def succeeded(self) -> None:
        """Forget the failures."""
        self._failures, self.retry_at = 0, -math.inf


class Servers:
    """The servers that `endpoints` lead to, and the choice between them, which all parts of the agent share.

    The agent returns to its first choice about `return_seconds` after it has left it. `spool` remembers the last good
    server for the next start. `find`, if there is one, finds the current endpoints before each check of the servers.
    """

    def __init__(
        self,
        endpoints: Iterable[Endpoint],
        agent_id: str,
        spool: SpoolThread,
        return_seconds: float,
        find: Find | None = None,
    ) -> None:
        self._agent_id = agent_id
        self._ranked: list[Server] = []
        self._replaced: list[Server] = []
        self._spool = spool
        self._return_seconds = return_seconds
        self._find = find
        self._is_check_due = asyncio.Event()
        self._good: Server | None = None
        self._use(endpoints)

    async def __aenter__(self) -> Self:
        """Begin with the last good server, if the agent used it lately; connections are opened by requests."""
        fact = await self._spool.run(self._spool.file.find_fact, _LAST_GOOD)
        last = None if fact is None else msgspec.json.decode(fact, type=_LastGood)
        if last is not None and abs(time.time() - last.at) < self._return_seconds:
            self._good = next((server for server in self._ranked if server.url == last.url), None)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close every connection."""
        for server in [*self._ranked, *self._replaced]:
            await server.client.aclose()

    def _use(self, endpoints: Iterable[Endpoint]) -> None:
        """Use these servers from now on; polls at others end, and other requests there continue."""
        known = {server.url: server for server in self._ranked}
        ranked = sorted(endpoints, key=lambda endpoint: rank(self._agent_id, endpoint))
        self._ranked = [known.get(endpoint.url) or Server(endpoint) for endpoint in ranked]
        replaced = [server for server in known.values() if server not in self._ranked]
        for server in replaced:
            server.end_reads()
        self._replaced += replaced

    async def _refresh(self) -> None:
        while self._replaced:  # since the last check, their requests have ended
            await self._replaced.pop().client.aclose()
        if self._find is not None:
            self._use(await self._find())

    @property
    def url(self) -> str:
        """The URL of the server that the next request goes to."""
        return self._choose().url

    async def ask(self, call: Call, headers: Mapping[str, str]) -> httpx.Response | None:
        """Send a request to the chosen server once; return None without an answer."""
        return await self._ask(self._choose(), call, headers)

    def pause_seconds(self, attempt: int, answer: httpx.Response | None) -> float:
        """Return how long to wait before the next attempt of a request whose last attempt got `answer`.

        After a fault of one server, the first pause is short while another server is usable. Later pauses are not:
        servers that are all overloaded must not get all requests of the fleet again at once.
        """
        is_fault = answer is None or is_fault_of_server(answer)
        if is_fault and self._usable():
            return failover_seconds(is_lost=answer is None) if attempt == 1 else delay_seconds(attempt)
        return delay_seconds(attempt, None if answer is None else answer.headers.get("Retry-After"))

    def check_soon(self) -> None:
        """Check the servers soon: the current one seems to send its agents away."""
        self._is_check_due.set()

    async def wait_and_check(self) -> None:
        """Wait, then leave a server that is not ready, and return to the best one that is."""
        spread = random.uniform(0.5, 1.5)  # noqa: S311 - no secret
        await asyncio.sleep(min(LEAST_CHECK_SECONDS, self._return_seconds) * spread)
        await wait_for_event(self._is_check_due, self._return_seconds * spread)
        await self._refresh()
        for server in self._usable() if len(self._ranked) > 1 else ():
            answer = await self._ask(server, READINESS, {})
            if answer is not None and answer.is_success:
                self._prefer(server)
                return

    async def _ask(self, server: Server, call: Call, headers: Mapping[str, str]) -> httpx.Response | None:
        began_at = time.monotonic()
        try:
            answer = await server.ask(call, headers)
        except (httpx.RequestError, OSError) as error:  # httpx passes on some errors of TLS
            logger.warning("%s %s%s: %s", call.method, server.url, call.path, describe(error))
            server.failed(None)
            if self._usable():
                server.end_reads()
            elif self._find is not None:
                self.check_soon()  # there may be other servers by now
            return None
        if not answer.is_success:
            detail = read_problem(answer).detail
            logger.warning("%s %s%s: status %d %s", call.method, server.url, call.path, answer.status_code, detail)
        is_expected = call.may_be_missing and answer.status_code == httpx.codes.NOT_FOUND
        if is_fault_of_server(answer) and not is_expected:
            server.failed(answer.headers.get("Retry-After"))
        elif server.failed_at < began_at:
            server.succeeded()
            if server is not self._good:
                self._prefer(server)
        return answer

    def _choose(self) -> Server:
        usable = self._usable()
        if self._good in usable:
            return self._good
        return usable[0] if usable else min(self._ranked, key=lambda server: server.retry_at)

    def _usable(self) -> list[Server]:
        now = time.monotonic()
        return [server for server in self._ranked if server.retry_at <= now]

    def _prefer(self, server: Server) -> None:
        if self._good is not None and server is not self._good:
            logger.info("using %s instead of %s", server.url, self._good.url)
        self._good = server
        self._spool.later(self._spool.file.remember, _LAST_GOOD, _LastGood(server.url, time.time()))


def rank(agent_id: str, endpoint: Endpoint) -> tuple[int, float]:
    """Return the key that orders the servers of an agent: by priority, then by weighted rendezvous hashing.

    The agents spread over the servers in proportion to the weights. If a server fails, its agents spread over the
    others in the same way, and no other agent moves.
    """
    number = int.from_bytes(blake2b(f"{agent_id}\0{endpoint.url}".encode(), digest_size=8).digest(), "big")
    return endpoint.priority, -math.log((number + 1) / 2**64) / max(endpoint.weight, LEAST_WEIGHT)
