"""Requests to the management API: login, repetition, pages and errors in one place.

>>> with ManagementClient(Endpoint("https://localhost:55000", Path("certs/ca.pem")), Password("admin", "…")) as api:
...     for agent in api.pages("/agents", {"status": "active"}, Agent):
...         print(agent.name)

Bodies and answers are JSON, or the structures of the services' models.
"""

import logging
import re
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import msgspec

from comms_api.client.transport.calls import read_problem
from comms_api.client.transport.endpoint import Endpoint
from comms_api.errors import CommsError, Unavailable
from comms_api.management_client.logins import Login

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

TIMEOUT_SECONDS = 60.0
PATIENCE_SECONDS = 30.0
"""A request is repeated for this long while the server is busy."""

IDEMPOTENCY_KEY = "Idempotency-Key"
_REPEATABLE = {"GET", "PUT", "DELETE"}
_BUSY = {httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE}
_OUTAGES = _BUSY | {httpx.codes.BAD_GATEWAY, httpx.codes.GATEWAY_TIMEOUT}
"""The statuses of a busy server, and those of a load balancer that reaches no server."""

_SECONDS = re.compile(r"\d{1,6}", re.ASCII)


class Refused(CommsError):
    """The server refused the request; `status` is the HTTP status of its answer."""

    def __init__(self, detail: str, status: int) -> None:
        super().__init__(detail)
        self.status = status


class Unreachable(Unavailable):
    """The server did not answer."""


class Untrusted(CommsError):
    """The server's certificate could not be verified."""


class _Page(msgspec.Struct, frozen=True):
    items: list[msgspec.Raw]
    next: str | int | None = None


class ManagementClient:
    """A client of the management API, logged in as one user. It is a context manager that closes its connections.

    A request is repeated if the server answers 429 or 503 with `Retry-After`, for `patience_seconds` at most, and only
    if a repetition is harmless: not a POST without an `Idempotency-Key`. Whatever fails is a `CommsError`: `Refused` if
    the server refuses the request, and `Unavailable` if it is busy or cannot be reached.
    """

    def __init__(self, endpoint: Endpoint, login: Login, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self.url = endpoint.url
        self._login = login
        self._patience_seconds = patience_seconds
        self._client = endpoint.client(TIMEOUT_SECONDS)
        self._token: str | None = None

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connections."""
        self._client.close()

    def ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Return a successful answer; `request` are further arguments of `httpx.Client.request`."""
        answer = self._send(method, path, self._authorize(), **request)
        if answer.status_code == httpx.codes.UNAUTHORIZED:  # a token lasts some minutes
            answer = self._send(method, path, self._authorize(self._token), **request)
        return _check(answer)

    def call(self, kind: type[Answer], method: str, path: str, body: object = None, **request: Any) -> Answer:
        """Send a body as JSON, and return the answer as an instance of `kind`; `request` is as for `ask`."""
        content = None if body is None else msgspec.json.encode(body)
        answer = self.ask(method, path, content=content, **request)
        return msgspec.json.decode(answer.content, type=kind)

    def pages(self, path: str, query: Mapping[str, Any], kind: Any = Any) -> Iterator[Any]:
        """Yield the items of every page, each as an instance of `kind`."""
        after: dict[str, Any] = {}
        decoder = msgspec.json.Decoder(kind)
        while True:
            page = self.call(_Page, "GET", path, params={**query, **after})
            yield from map(decoder.decode, page.items)
            if page.next is None:
                return
            after = {"after": page.next}

    @contextmanager
    def stream(self, path: str, **request: Any) -> Iterator[httpx.Response]:
        """Yield a successful answer whose body is read as it arrives."""
        with faults_of(self.url), ExitStack() as stack:
            answer = stack.enter_context(self._open(path, self._authorize(), **request))
            if answer.status_code == httpx.codes.UNAUTHORIZED:
                stack.close()
                answer = stack.enter_context(self._open(path, self._authorize(self._token), **request))
            if not answer.is_success:
                answer.read()
            yield _check(answer)

    def _open(self, path: str, token: str, **request: Any) -> AbstractContextManager[httpx.Response]:
        headers = {**(request.pop("headers", None) or {}), "Authorization": f"Bearer {token}"}
        timeout = httpx.Timeout(TIMEOUT_SECONDS, read=None)
        return self._client.stream("GET", path, timeout=timeout, headers=headers, **request)

    def _authorize(self, refused: str | None = None) -> str:
        if self._token is None or refused is not None:
            self._token = self._login.find_token(self._log_in, refused)
        return self._token

    def _log_in(self, method: str, path: str, **request: Any) -> httpx.Response:
        return _check(self._send(method, path, None, **request))

    def _send(self, method: str, path: str, token: str | None, **request: Any) -> httpx.Response:
        """Return the answer; repeat the request while the server is busy, if a repetition is harmless."""
        headers = dict(request.pop("headers", None) or {})
        is_repeatable = method in _REPEATABLE or IDEMPOTENCY_KEY in headers
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        deadline = time.monotonic() + self._patience_seconds
        while True:
            with faults_of(self.url):
                answer = self._client.request(method, path, headers=headers, **request)
            pause_seconds = _read_pause(answer) if is_repeatable else None
            if pause_seconds is None or time.monotonic() + pause_seconds > deadline:
                return answer
            logger.warning("the server is busy; %s %s is repeated in %d s", method, path, pause_seconds)
            time.sleep(pause_seconds)


@contextmanager
def faults_of(url: str) -> Iterator[None]:
    """Raise `Untrusted` or `Unreachable` if a request of the block gets no answer."""
    try:
        yield
    except (httpx.TransportError, httpx.InvalidURL) as error:
        reason = str(error) or type(error).__name__  # the messages of time-outs are empty
        kind = Untrusted if _is_certificate_refused(error) else Unreachable
        raise kind(f"{url}: {reason}") from error


def _is_certificate_refused(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error is not None


def _read_pause(answer: httpx.Response) -> int | None:
    seconds = answer.headers.get("Retry-After", "")
    return int(seconds) if answer.status_code in _BUSY and _SECONDS.fullmatch(seconds) else None


def _check(answer: httpx.Response) -> httpx.Response:
    if answer.is_success:
        return answer
    detail = read_problem(answer).detail or f"the server answered with status {answer.status_code}"
    if answer.status_code in _OUTAGES:
        seconds = _read_pause(answer)
        raise Unavailable(detail if seconds is None else f"{detail} (in {seconds} s)", retry_after_seconds=seconds)
    raise Refused(detail, answer.status_code)
