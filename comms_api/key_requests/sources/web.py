"""A web service as the source of agents: a question is `GET URL?id=001` or `GET URL?ip=192.168.1.100`."""

import asyncio
from pathlib import Path

import httpx

from comms_api.errors import ConfigurationError
from comms_api.key_requests.answers import parse_answer
from comms_api.key_requests.model import ExternalAgent, KeySettings, Question, Refusal
from comms_api.key_requests.sources.source import SourceUnavailable, tls_context

CONNECT_SECONDS = 3.0
HEADER_BYTES_MAXIMUM = 8192
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class WebSource:
    """A web service; its certificate is checked, redirects are not followed, and its answer is bounded.

    Raises `ConfigurationError` if a file of the settings cannot be used.
    """

    def __init__(self, url: str, settings: KeySettings) -> None:
        self._url = _read_url(url)
        self._maximum = settings.answer_bytes_maximum
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if settings.header_file is not None:
            headers |= read_header(settings.header_file)
        self._client = httpx.AsyncClient(
            headers=headers,
            verify=tls_context(settings.ca),
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=settings.threads),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def ask(self, question: Question, seconds: float) -> ExternalAgent | Refusal:
        """Return the answer; raises `SourceUnavailable` for a status other than 200, which may be our own mistake."""
        try:
            async with asyncio.timeout(seconds):
                status, answer = await self._get(question)
        except TimeoutError:
            raise SourceUnavailable(f"{self._url.host} did not answer within {seconds:g} s") from None
        except (httpx.HTTPError, OSError) as error:  # httpx passes on some errors of TLS
            raise SourceUnavailable(f"{self._url.host}: {type(error).__name__}: {error}") from None
        if status != httpx.codes.OK:
            raise SourceUnavailable(f"{self._url.host} answered with status {status}")
        return parse_answer(answer, question, self._maximum)

    async def _get(self, question: Question) -> tuple[int, bytes]:
        """Return the status and one byte more than the limit of the answer."""
        body = bytearray()
        url = self._url.copy_merge_params({question.kind: question.value})
        async with self._client.stream("GET", url) as response:
            async for part in response.aiter_raw():
                body += part[: self._maximum + 1 - len(body)]
                if len(body) > self._maximum:
                    break
            return response.status_code, bytes(body)


def _read_url(text: str) -> httpx.URL:
    """Return the URL; raises `ConfigurationError`, which does not quote it, since it may contain a password."""
    try:
        url = httpx.URL(text)
        host = url.host
    except (httpx.InvalidURL, UnicodeError):  # the second for a name that only begins like IDNA
        url, host = httpx.URL(), ""
    if url.scheme not in {"http", "https"} or not host:
        raise ConfigurationError("url: not a URL such as https://keys.example.org/agents")
    if url.userinfo:
        raise ConfigurationError("url: must not contain a user or a password; use key_request_header_file")
    if url.scheme == "http" and host not in LOOPBACK:
        raise ConfigurationError("url: must begin with https://, except for localhost")
    return url


def read_header(path: Path) -> dict[str, str]:
    """Return the header in a file, `Name: value` on one line; raises `ConfigurationError`, which never quotes it."""
    try:
        with path.open("rb") as file:
            lines = file.read(HEADER_BYTES_MAXIMUM).decode("ascii").splitlines()
    except OSError as error:
        raise ConfigurationError(f"header_file: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        lines = []
    name, colon, value = lines[0].partition(":") if len(lines) == 1 else ("", "", "")
    if not (name and colon and value.strip() and name.replace("-", "").isalnum() and value.isprintable()):
        raise ConfigurationError(f"header_file: {path} must have one line such as `Authorization: Bearer …`")
    return {name: value.strip()}
