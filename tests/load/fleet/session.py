"""What agents and operators share: a token that is renewed in time, and a judgement of every answer."""

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
"""How long before its end a real agent renews its token."""

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
        self._token_ends_at = 0.0
        self._is_proven = False

    def ssl_context_factory(self, **_: Any) -> ssl.SSLContext:
        """Return one context for all users: it trusts the given authority alone."""
        return _tls_context(self.environment.parsed_options.ca)

    def read_token(self) -> str:
        """Try to log in, once; return the token, or "" when there was no good answer."""
        raise NotImplementedError

    def ask(
        self, method: str, url: str, name: str, sending: tuple[str, int] | None = None, **content: Any
    ) -> ResponseContextManager:
        """Send a request with a good token; return its answer, good or not, after the pause that the server asks.

        `sending` says what is tallied: a noun, and how many of it are sent.
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
                self._is_proven = True
        self.is_stopping.wait(pause)
        return answer

    def pause(self, seconds: float) -> None:
        """Wait; a user who is to stop, stops here."""
        if self.is_stopping.wait(seconds):
            raise StopUser

    def wait_time(self) -> float:
        """Spread calls around their interval; the wait is made here, as locust's own would end within a request."""
        self.pause(self.interval_seconds() * random.uniform(0.5, 1.5))  # noqa: S311 - spreading, no secret
        return 0.0

    def interval_seconds(self) -> float:
        """Return the time from one call to the next."""
        raise NotImplementedError

    def stop(self, force: bool = False) -> bool:  # noqa: FBT001, FBT002 - locust's own signature
        """Stop between two requests, so that no answer is lost, unless forced to."""
        self.is_stopping.set()
        if force:
            return bool(super().stop(force))
        self._state = LOCUST_STATE_STOPPING
        return False

    def judge(self, answer: ResponseContextManager) -> float:
        """Decide what an answer counts as, and return how many seconds to wait before the next request.

        "Come back later" and the end of a token are part of the protocol: they get rows of their own and are no
        failures, unless no time is named or the token has never been good for anything.
        """
        status, again = answer.status_code, (answer.headers or {}).get("retry-after", "")
        if status in {429, 503} and again.isdecimal():
            answer.request_meta["name"] += f" → {status}, later"
            answer.success()
            return float(again) * random.uniform(1, 1.5)  # noqa: S311 - spreading, no secret
        if status == HTTPStatus.UNAUTHORIZED and self._is_proven:
            answer.request_meta["name"] += " → 401, logs in again"
            answer.success()
        elif status and not is_good(answer):
            answer.failure(f"{status} {_reason(answer)}")
        return 0.0

    def on_stop(self) -> None:
        """Close every connection, as a process that ends does."""
        self.client.client.close()

    def _good_token(self) -> str:
        with self._login:  # a poll and a batch that find the token old log in once
            while self._token is None or time.time() >= self._token_ends_at - RENEW_SECONDS:
                if token := self.read_token():
                    self._token, self._token_ends_at, self._is_proven = token, _ends_at(token), False
                else:
                    self.pause(LOGIN_PAUSE_SECONDS * random.uniform(0.5, 1))  # noqa: S311 - the same
            return self._token

    def read_management_token(self) -> str:
        """Log in as the operator; return "" when that fails."""
        url = f"{self.options.management_url}/security/user/authenticate"
        credentials = (self.options.operator, Path(self.options.password_file).read_text().strip())
        name = "/security/user/authenticate"
        with self.client.request("POST", url, name=name, catch_response=True, auth=credentials) as answer:
            pause = self.judge(answer)
        self.pause(pause)
        return str(answer.json()["data"]["token"]) if is_good(answer) else ""


def is_good(answer: ResponseContextManager) -> bool:
    """Return whether an answer is what was asked for, or says that it is known already."""
    return HTTPStatus.OK <= answer.status_code < HTTPStatus.BAD_REQUEST


def _reason(answer: ResponseContextManager) -> str:
    try:
        return str(answer.json().get("detail", ""))
    except (ValueError, TypeError, AttributeError):
        return ""


def _ends_at(token: str) -> float:
    """Return when a token ends, as a real agent reads it; the signature is the server's own affair."""
    claims = token.split(".")[1]
    return float(json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["exp"])
