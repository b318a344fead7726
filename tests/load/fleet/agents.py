"""Agents that enroll, log in, and then send batches while they hold a poll, as real agents do."""

import hashlib
import time
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

from gevent.pool import Group
from locust import events, task
from locust.contrib.fasthttp import ResponseContextManager
from locust.exception import StopUser

from fleet import bodies
from fleet.memory import AT_REST, Batch, Change, Memory
from fleet.session import Session, is_good
from fleet.tally import count, count_answer, count_sent

POLL_PAUSE_SECONDS = 1.0
POLL_FAILED_PAUSE_SECONDS = 30.0
PAUSE_SECONDS = 5.0
"""The pause between two attempts to enroll or to report."""

FINAL_MESSAGES = {"Invalid key", "Agent does not exist"}
EXPECTED_STATUS = {"create": 201, "update": 200, "delete": 200}

_POLLERS = Group()
STOP_SECONDS = 10.0


@events.test_stop.add_listener
def _let_reports_end(**_: Any) -> None:
    _POLLERS.join(timeout=STOP_SECONDS)


class Agent(Session):
    """The common part of both kinds of agents. Every pause is as long as a real agent's."""

    abstract = True
    host = "https://localhost:27000"
    prefix = ""
    login_path = "/login"
    enrolls_by_user = False

    def on_start(self) -> None:
        """Resume an agent that was away, or enroll a new one; then log in and hold a poll."""
        self.memory = AT_REST.pop() if AT_REST else self._enroll()
        self._is_handling = False
        self.refresh()
        self._poller = _POLLERS.spawn(self._keep_polling)

    def on_stop(self) -> None:
        """Go away: end the poll, unless an order is being reported."""
        if not hasattr(self, "_poller"):
            return
        if not self._is_handling:
            self._poller.kill(block=False)
        AT_REST.append(self.memory)

    def interval_seconds(self) -> float:
        """Return the time between two batches."""
        return float(self.options.batch_seconds)

    def read_token(self) -> str:
        """Log in; a refusal that is final for real agents ends this agent."""
        credentials = {"uuid": self.memory.id, "key": self.memory.key}
        path = self.prefix + self.login_path
        with self.client.request("POST", path, name=path, catch_response=True, json=credentials) as answer:
            pause = self.judge(answer)
        if answer.status_code in {401, 403} and answer.json().get("message") in FINAL_MESSAGES:
            raise StopUser
        self.pause(pause)
        if not is_good(answer):
            return ""
        count(logins=1)
        return str(answer.json()["token"])

    def call(self, method: str, path: str, **content: Any) -> ResponseContextManager:
        """Send a request to the agent API; the statistics use the path without the query."""
        url = self.prefix + path
        return self.ask(method, url, url.partition("?")[0], **content)

    @task(6)
    def send_events(self) -> None:
        """Send a stateless batch: the last one, if it was not acknowledged, or a new one."""
        size = self.options.batch_events
        batch = self.memory.waiting.setdefault("events", Batch(bodies.events(size), size))
        if is_good(self._send("stateless", batch)):
            del self.memory.waiting["events"]

    @task(3)
    def send_states(self) -> None:
        """Send a stateful batch in the same way, and check the result of each item."""
        changes = bodies.changes(self.memory, self.options.batch_states)
        new = Batch(bodies.states(changes), len(changes), changes)
        batch = self.memory.waiting.setdefault("states", new)
        is_first, batch.was_sent = not batch.was_sent, True
        answer = self._send("stateful", batch)
        if is_good(answer):
            del self.memory.waiting["states"]
            self._apply(batch.changes)
        if is_good(answer) and is_first:  # the statuses of a repeated batch say little
            self._check(batch.changes, [item["status"] for item in answer.json()["results"]])

    @task(1)
    def fetch_files(self) -> None:
        """Check whether the configuration has changed."""
        self.refresh()

    def refresh(self) -> None:
        """Fetch the file of the agent's group, unless it is unchanged."""
        name = f"{self.options.group}.yml"
        path = f"/files?file_name={name}"
        headers = {"If-None-Match": self.memory.tags[name]} if name in self.memory.tags else {}
        answer = self.call("GET", path, headers=headers)
        if answer.status_code == HTTPStatus.OK:
            self.memory.tags[name] = answer.headers["etag"]
            count(files_fetched=1)
        count(files_unchanged=int(answer.status_code == HTTPStatus.NOT_MODIFIED))

    def _send(self, kind: str, batch: Batch) -> ResponseContextManager:
        body = bodies.lines(bodies.metadata(self.memory, [self.options.group])) + batch.body
        sending = ("events" if kind == "stateless" else "changes", batch.size)
        headers = {"Content-Type": "application/json"}
        return self.call("POST", f"/events/{kind}", sending=sending, data=body, headers=headers)

    def _apply(self, changes: list[Change]) -> None:
        """Remember the states that the server has now."""
        created = {id_ for operation, id_ in changes if operation == "create"}
        deleted = {id_ for operation, id_ in changes if operation == "delete"}
        self.memory.states |= created
        self.memory.states -= deleted
        count(states_created=len(created), states_deleted=len(deleted))

    def _check(self, changes: list[Change], statuses: list[int]) -> None:
        """Count an answer with a wrong result as a failure, although its status is a success."""
        expected = [EXPECTED_STATUS[operation] for operation, _ in changes]
        if statuses != expected:
            fault = ValueError(f"{statuses} instead of {expected}")
            about = {"response_time": 0, "response_length": 0, "context": {}, "exception": fault}
            self.environment.events.request.fire(request_type="CHECK", name="/events/stateful: results", **about)

    def _keep_polling(self) -> None:
        try:
            with suppress(StopUser):
                while True:
                    self.pause(self._poll())
        finally:
            self.client.client.close()  # as the end of a process does

    def _poll(self) -> float:
        """Hold one poll and execute its orders; return the pause that a real agent makes afterwards."""
        answer = self.call("GET", f"/commands?wait={self.options.poll_seconds:g}")
        if not is_good(answer):
            return POLL_PAUSE_SECONDS if answer.status_code in {401, 408, 429, 503} else POLL_FAILED_PAUSE_SECONDS
        self._is_handling = True
        self._handle(answer.json()["commands"])
        self._is_handling = False
        return POLL_PAUSE_SECONDS

    def judge(self, answer: ResponseContextManager) -> float:
        """Replace the response time of a poll, since the agent itself chose how long the poll is held.

        For an empty poll the time is the delay after that; for a poll with orders, the age of the oldest order.
        """
        about = answer.request_meta
        if about["name"] == f"{self.prefix}/commands" and is_good(answer):
            orders = answer.json()["commands"]
            late_ms = max(0.0, about["response_time"] - self.options.poll_seconds * 1000)
            about["response_time"] = _age_ms(orders) if orders else late_ms
            about["name"] += ": orders, since made" if orders else ": none, after the wait"
        if about["name"] == f"{self.prefix}/files" and answer.status_code == HTTPStatus.NOT_FOUND:
            about["name"] += " → 404, none yet"
            answer.success()
            return 0.0
        return super().judge(answer)

    def _handle(self, orders: list[dict[str, Any]]) -> None:
        if any(order["action"]["name"] == "fetch-config" for order in orders):
            self.refresh()
        count(orders_received=len(orders))
        self.memory.unreported += [order["order_id"] for order in orders]
        while self.memory.unreported and not self._has_reported():
            self.pause(PAUSE_SECONDS)

    def _has_reported(self) -> bool:
        """Report once, and count the results that ended an order."""
        reported = list(self.memory.unreported)
        answer = self.report(reported)
        if is_good(answer):
            results = [item["result"] for item in answer.json()["results"]]
            count(orders_ended=results.count("updated"), reports_repeated=results.count("noop"))
            self.memory.unreported = [order for order in self.memory.unreported if order not in reported]
        return is_good(answer)

    def report(self, orders: list[str]) -> ResponseContextManager:
        """Report that orders succeeded."""
        raise NotImplementedError

    def _enroll(self) -> Memory:
        """Enroll, with a new id for each attempt: without an answer, the previous one may be enrolled."""
        while True:
            id_ = bodies.new_id()
            memory = Memory(id_, f"load-{id_[-12:]}")
            if self._is_enrolled(bodies.enrollment(memory, [self.options.group])):
                return memory
            self.pause(PAUSE_SECONDS)

    def _is_enrolled(self, enrollment: dict[str, Any]) -> bool:
        """Enroll by a user or by a token: the usual way of this kind of agent, or the other if the options lack it."""
        options = self.options
        by_user = options.enrollment_token_file is None or (self.enrolls_by_user and options.password_file is not None)
        url, name = (f"{options.management_url}/agents", "/agents") if by_user else ("/enroll", "/enroll")
        secret = self.read_management_token() if by_user else Path(options.enrollment_token_file).read_text().strip()
        if not secret:
            return False
        headers = {"Authorization": f"Bearer {secret}"}
        count_sent("agents", 1)
        with self.client.request(
            "POST", url, name=name, catch_response=True, json=enrollment, headers=headers
        ) as answer:
            count_answer("agents", 1, answer.status_code)
            pause = self.judge(answer)
        self.pause(pause)
        return is_good(answer)


def _age_ms(orders: list[dict[str, Any]]) -> float:
    """Return the age of the oldest order; its id is a UUIDv7 by the database's clock."""
    oldest = min(int(order["order_id"].replace("-", "")[:12], 16) for order in orders)
    return max(0.0, time.time() * 1000 - oldest)


class RealAgent(Agent):
    """Behaves like a real agent: a new connection for each request, results as states, enrolled by a user."""

    weight = 3
    prefix = "/api/v1"
    login_path = "/authentication"
    enrolls_by_user = True
    default_headers = {  # noqa: RUF012 - locust reads it so
        "User-Agent": "WazuhXDR/v6.0.0 (Endpoint; x86_64; Debian)",
        "Accept": "application/json",
        "Connection": "close",
    }

    def report(self, orders: list[str]) -> ResponseContextManager:
        """Report by a stateful batch."""
        body = bodies.lines(bodies.metadata(self.memory, [self.options.group])) + bodies.result_states(orders)
        url, headers = f"{self.prefix}/events/stateful", {"Content-Type": "application/json"}
        return self.ask("POST", url, f"{url}: results", ("reports", len(orders)), data=body, headers=headers)


class ReferenceAgent(Agent):
    """Behaves like the reference agent: keep-alive connections, reports, and the hash of its configuration."""

    weight = 1

    def report(self, orders: list[str]) -> ResponseContextManager:
        """Report by a batch of reports."""
        result = {"code": 0, "message": "done", "data": {}}
        reports = [{"order_id": order, "result": result} for order in orders]
        return self.call("POST", "/commands/results", sending=("reports", len(orders)), json={"results": reports})

    def refresh(self) -> None:
        """Fetch changed files, and report the hash of the configuration."""
        super().refresh()
        answer = self.call("GET", "/configuration")
        if is_good(answer):
            files = sorted((file["group"], file["name"], file["sha256"]) for file in answer.json()["files"])
            text = "".join(f"{group}/{name} {digest}\n" for group, name, digest in files)
            self.call("PUT", "/configuration", json={"sha256": hashlib.sha256(text.encode()).hexdigest()})
