"""Requests to the server, and its refusals."""

import re

import httpx
import msgspec

from comms_api.errors import CommsError
from comms_api.protocol import BATCH_SEQUENCE, KEY_REUSED

REQUEST_SECONDS = 60.0

FINAL_STATUSES = {400, 413, 415, 422}
"""Statuses that blame the request itself: a repetition would be refused again. All other requests are retried."""

MISPLACED_STATUSES = {404, 405}
"""Statuses that a server does not answer, since it has all paths that the agent uses; a balancer without one may."""

_NUMBER = re.compile(r"\d{1,18}", re.ASCII)


class Call(msgspec.Struct, frozen=True):
    """One request; `timeout_seconds` is how long the answer may take to begin."""

    method: str
    path: str
    content: bytes | None = None
    timeout_seconds: float = REQUEST_SECONDS
    sequence: int | None = None
    """The number of a stateful batch."""
    key: str | None = None
    """The idempotency key of a batch."""
    may_be_missing: bool = False
    """Whether to return a 404 instead of retrying."""


class Refused(CommsError):
    """The server refuses this request, and would refuse it again.

    `latest_sequence` is the number of the newest batch that the server has applied, if the request was an older one.
    `is_key_reused`: the server knows another batch by the key of this one.
    """

    def __init__(self, reason: str, latest_sequence: int | None = None, *, is_key_reused: bool = False) -> None:
        super().__init__(reason)
        self.latest_sequence = latest_sequence
        self.is_key_reused = is_key_reused


class Problem(msgspec.Struct, frozen=True):
    """The members that the agent reads of an error (RFC 9457)."""

    message: str = ""
    detail: str = ""
    code: int = 0


def read_problem(answer: httpx.Response) -> Problem:
    """Return the error in an answer, or an empty one if the answer is not from the server but, say, from a proxy."""
    try:
        return msgspec.json.decode(answer.content, type=Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Problem()


def describe(error: Exception) -> str:
    """Describe why a request got no answer; the messages of time-outs are empty."""
    return f"{type(error).__name__} {error}".strip()


def is_fault_of_server(answer: httpx.Response) -> bool:
    """Return whether another server may answer better: this one fails, or something else answers in its place."""
    return answer.is_server_error or answer.is_redirect or answer.status_code in MISPLACED_STATUSES


def check_refusal(answer: httpx.Response) -> None:
    """Raise `Refused` if the server would refuse a repetition of the request as well."""
    latest = answer.headers.get(BATCH_SEQUENCE, "")
    is_outdated = answer.status_code == httpx.codes.CONFLICT and _NUMBER.fullmatch(latest) is not None
    if is_outdated or answer.status_code in FINAL_STATUSES:
        problem = read_problem(answer)
        reason = f"status {answer.status_code}: {problem.detail}"
        raise Refused(reason, int(latest) if is_outdated else None, is_key_reused=problem.code == KEY_REUSED)
