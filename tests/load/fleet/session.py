"""The common part of agents and operators: a token that is renewed in time, and an assessment of every answer."""

import base64
import json
import random
import time
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any

from gevent import ssl
from gevent.event import Event
from gevent.lock import RLock
from locust import FastHttpUser
from locust.contrib.fasthttp import ResponseContextManager
from locust.exception import StopUser
from locust.user.task import LOCUST_STATE_STOPPING

from fleet.tally import count_answer, count_sent

RENEW_SECONDS = 2.0
"""The time before its expiry when a real agent renews its token."""

LOGIN_PAUSE_SECONDS = 5.0


@cache
def _tls_context(ca: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca)


class Session(FastHttpUser):
    """A user of either API."""

    abstract = True
    insecure = False  # certificates are checked
    network_timeout = 660.0  # a poll may be held for long; a real agent waits 11 minutes

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.options = self.environment.parsed_options
        self.is_stopping = Event()
        self._login = RLock()
        self._token: str | None = None
        self._token_expires_at = 0.0
        self._has_worked = False

    def ssl_context_factory(self, **_: Any) -> ssl.SSLContext:
        """Return one context for all users, which trusts the authority of `--ca` only."""
        return _tls_context(self.environment.parsed_options.ca)

    def read_token(self) -> str:
        """Try to log in once; return the token, or "" if that failed."""
        raise NotImplementedError

    def ask(
        self, method: str, url: str, name: str, sending: tuple[str, int] | None = None, **content: Any
    ) -> ResponseContextManager:
        """Send a request with a valid token; return its answer after the pause that the server requests.

        `sending` is tallied: the kind of the items and their number.
        """
        token = self._good_token()
        headers = {"Authorization": f"Bearer {token}"} | content.pop("headers", {})
        if sending:
            count_sent(*sending)
        with self.client.request(method, url, name=name, catch_response=True, headers=headers, **content) as answer:
            if sending:
                count_answer(*sending, answer.status_code)
            pause = self.judge(answer)
            if answer.status_code in {401, 403} and self._token == token:
                self._token = None
            if is_good(answer):
                self._has_worked = True
        self.is_stopping.wait(pause)
        return answer

    def pause(self, seconds: float) -> None:
        """Wait, and end this user if it is stopped while it waits."""
        if self.is_stopping.wait(seconds):
            raise StopUser

    def wait_time(self) -> float:
        """Wait for about the interval here, because a stop interrupts locust's own waiting within a request."""
        self.pause(self.interval_seconds() * random.uniform(0.5, 1.5))  # noqa: S311 - spreading, no secret
        return 0.0

    def interval_seconds(self) -> float:
        """Return the mean time between two calls."""
        raise NotImplementedError

    def stop(self, force: bool = False) -> bool:  # noqa: FBT001, FBT002 - locust's own signature
        """Stop between two requests, so that no answer is lost, unless `force` is set."""
        self.is_stopping.set()
        if force:
            return bool(super().stop(force))
        self._state = LOCUST_STATE_STOPPING
        return False

    def judge(self, answer: ResponseContextManager) -> float:
        """Decide whether an answer is a failure, and return how many seconds to wait before the next request.

        A 429 or 503 with Retry-After and the expiry of a token are part of the protocol: they are no failures and have
        separate rows. A 401 for a token that never worked is a failure.
        """
        status, again = answer.status_code, (answer.headers or {}).get("retry-after", "")
        if status in {429, 503} and again.isdecimal():
            answer.request_meta["name"] += f" → {status}, later"
            answer.success()
            return float(again) * random.uniform(1, 1.5)  # noqa: S311 - spreading, no secret
        if status == HTTPStatus.UNAUTHORIZED and self._has_worked:
            answer.request_meta["name"] += " → 401, logs in again"
            answer.success()
        elif status and not is_good(answer):
            answer.failure(f"{status} {_reason(answer)}")
        return 0.0

    def on_stop(self) -> None:
        """Close every connection, as the end of a process does."""
        self.client.client.close()

    def _good_token(self) -> str:
        with self._login:  # a poll and a batch with the same expired token log in once
            while self._token is None or time.time() >= self._token_expires_at - RENEW_SECONDS:
                if token := self.read_token():
                    self._token, self._token_expires_at, self._has_worked = token, _expires_at(token), False
                else:
                    self.pause(LOGIN_PAUSE_SECONDS * random.uniform(0.5, 1))  # noqa: S311 - the same
            return self._token

    def read_management_token(self) -> str:
        """Log in as the operator; return "" if that fails."""
        url = f"{self.options.management_url}/security/user/authenticate"
        credentials = (self.options.operator, Path(self.options.password_file).read_text().strip())
        name = "/security/user/authenticate"
        with self.client.request("POST", url, name=name, catch_response=True, auth=credentials) as answer:
            pause = self.judge(answer)
        self.pause(pause)
        return str(answer.json()["data"]["token"]) if is_good(answer) else ""


def is_good(answer: ResponseContextManager) -> bool:
    """Return whether the status is a success or 304 (Not Modified)."""
    return HTTPStatus.OK <= answer.status_code < HTTPStatus.BAD_REQUEST


def _reason(answer: ResponseContextManager) -> str:
    try:
        return str(answer.json().get("detail", ""))
    except (ValueError, TypeError, AttributeError):
        return ""


def _expires_at(token: str) -> float:
    """Return when a token expires; like a real agent, ignore the signature."""
    claims = token.split(".")[1]
    return float(json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["exp"])
