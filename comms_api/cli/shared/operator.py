"""An operator's conversation with the management API, for the command line."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote

import click
import httpx

from comms_api.cli.shared.device import Device, device_of
from comms_api.client.enroll import read_secret
from comms_api.client.transport.calls import read_problem
from comms_api.client.transport.endpoint import Endpoint
from comms_api.errors import CommsError, ConfigurationError, Unavailable
from comms_api.text.printable import is_name

TIMEOUT_SECONDS = 60.0

JsonObject: TypeAlias = dict[str, Any]
Function = TypeVar("Function", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--url", default="https://localhost:55000", help="URL of the management API."),
    click.option(
        "--ca",
        type=click.Path(dir_okay=False, exists=True, path_type=Path),
        help="CA certificate of the server; by default the system's CAs.",
    ),
    click.option("--proxy", help="HTTP proxy; by default that of the environment."),
    click.option("--no-proxy", is_flag=True, help="Ignore the proxy of the environment."),
    click.option("--user", default="admin", help="User to log in as."),
    click.option(
        "--password-file",
        required=True,
        type=click.Path(dir_okay=False, exists=True, path_type=Path),
        help="File with the user's password.",
    ),
)


def path_part(name: str) -> str:
    """Return a name as one part of a path; raises `ConfigurationError` if it cannot be one."""
    if not is_name(name):
        raise ConfigurationError(f"{name!r} is not a name")
    return quote(name, safe="")


def operator_options(function: Function) -> Function:
    """Add the options for the server and the user."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def operation(group: click.Group, name: str) -> Callable[[Callable[..., None]], click.Command]:
    """Register a function as a command of a group; its first parameter is the logged-in operator."""

    def decorate(function: Callable[..., None]) -> click.Command:
        def perform(*, user: str, password_file: Path, **options: Any) -> None:
            endpoint = [options.pop(name) for name in ("url", "ca", "proxy", "no_proxy")]
            with logged_in(Endpoint(*endpoint), user, password_file) as operator:
                function(operator, **options)

        perform.__doc__ = function.__doc__
        perform.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined] # click's own
        return group.command(name)(operator_options(perform))

    return decorate


class Operator:
    """A client of the management API, logged in as one user; a refusal is an error of one line."""

    def __init__(self, client: httpx.Client, credentials: tuple[str, str], device: Device) -> None:
        self._client = client
        self._credentials = credentials
        self._device = device
        self._log_in()

    def _log_in(self) -> None:
        token = self._device.find_token()
        headers = {} if token is None else {"Device-Token": token}
        answer = self._client.post("/security/user/authenticate", auth=self._credentials, headers=headers)
        _check(answer)
        tokens = answer.json()["data"]
        self._client.headers["Authorization"] = f"Bearer {tokens['token']}"
        if device_token := tokens.get("device_token"):  # a node of the previous release sends none
            self._device.keep(device_token)

    def ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Return a successful answer; raises `CommsError` with the server's message."""
        answer = self._client.request(method, path, **request)
        if answer.status_code == httpx.codes.UNAUTHORIZED:  # a token lasts some minutes
            self._log_in()
            answer = self._client.request(method, path, **request)
        _check(answer)
        return answer

    def pages(self, path: str, query: JsonObject) -> Iterator[JsonObject]:
        """Yield the items of every page."""
        after: JsonObject = {}
        while True:
            page = self.ask("GET", path, params=query | after).json()
            yield from page["items"]
            if page["next"] is None:
                return
            after = {"after": page["next"]}

    @contextmanager
    def stream(self, path: str, **request: Any) -> Iterator[httpx.Response]:
        """Yield a successful answer whose body is read as it arrives."""
        timeout = httpx.Timeout(TIMEOUT_SECONDS, read=None)
        with self._client.stream("GET", path, timeout=timeout, **request) as answer:
            if not answer.is_success:
                answer.read()
            _check(answer)
            yield answer


@contextmanager
def logged_in(endpoint: Endpoint, user: str, password_file: Path) -> Iterator[Operator]:
    """Yield an operator; raises `CommsError` when the server cannot be reached or refuses the user."""
    password = read_secret("--password-file", password_file)
    try:
        with endpoint.client(TIMEOUT_SECONDS) as client:
            yield Operator(client, (user, password), device_of(endpoint.url, user))
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise CommsError(f"{endpoint.url}: {error}") from None


def _check(answer: httpx.Response) -> None:
    if not answer.is_success:
        kind = Unavailable if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE else CommsError
        raise kind(read_problem(answer).detail or f"the server answered with status {answer.status_code}")
