"""The operator submits commands to the group and waits for their end, stores its file, and lists the fleet."""

import random
import time
from typing import Any

from locust import task
from locust.contrib.fasthttp import ResponseContextManager

from fleet.session import Session, is_good
from fleet.tally import count

ACTIONS = ("restart", "fetch-config", "ping")
ORDER_SECONDS = 600
"""The timeout of orders for agents that are away."""

WATCH_SECONDS = 5


class Operator(Session):
    """One user of the management API."""

    fixed_count = 1

    def on_start(self) -> None:
        """Store a file for the group, wait for its first agent, and submit a first command."""
        self.store_file()
        while not self._has_agents():
            self.pause(1)
        self.command()

    def _has_agents(self) -> bool:
        path = f"/agents?group={self.options.group}&limit=1"
        answer = self.call("GET", path, "/agents (management)")
        return is_good(answer) and bool(answer.json()["items"])

    def interval_seconds(self) -> float:
        """Return the time between two calls."""
        return float(self.options.command_seconds)

    def read_token(self) -> str:
        """Log in with the password."""
        return self.read_management_token()

    def call(self, method: str, path: str, name: str, **content: Any) -> ResponseContextManager:
        """Send a request to the management API."""
        return self.ask(method, self.options.management_url + path, name, **content)

    @task(6)
    def command(self) -> None:
        """Submit a command to the group, and watch it until every order has ended or the fleet stops."""
        action = {"name": random.choice(ACTIONS), "args": {}, "version": "6.0.0"}  # noqa: S311 - any will do
        target = {"type": "group", "id": self.options.group}
        body = {"source": "Users/Services", "target": target, "action": action, "timeout": ORDER_SECONDS}
        answer = self.call("POST", "/commands", "/commands (management)", sending=("commands", 1), json=body)
        if is_good(answer):
            self._watch(answer.json()["commands"][0]["request_id"])

    def _watch(self, request_id: str) -> None:
        started, path = time.perf_counter(), f"/commands/{request_id}/wait?timeout={WATCH_SECONDS}"
        while True:
            answer = self.call("GET", path, "/commands/{id}/wait (management)")
            if is_good(answer) and answer.json()["is_done"]:
                self._note_end(answer.json()["orders"]["failure"], time.perf_counter() - started)
                return
            self.pause(0 if is_good(answer) else 1)

    def _note_end(self, failed: int, seconds: float) -> None:
        count(commands_ended=1)
        fault = ValueError(f"{failed} orders failed") if failed else None
        about = {"response_time": seconds * 1000, "response_length": 0, "context": {}, "exception": fault}
        self.environment.events.request.fire(request_type="COMMAND", name="submitted → every order ended", **about)

    @task(1)
    def store_file(self) -> None:
        """Store a new version of the group's file, which its agents are ordered to fetch."""
        group = self.options.group
        content = f"logcollector:\n  enabled: true\n  read_interval: {random.randrange(10**6)}\n"  # noqa: S311 - any
        self.call("PUT", f"/groups/{group}/files/{group}.yml", "/groups/{name}/files/{file} (management)", data=content)

    @task(2)
    def list_fleet(self) -> None:
        """List agents and failed orders, as an operator's screen does."""
        group = self.options.group
        self.call("GET", f"/agents?group={group}&limit=50", "/agents (management)")
        self.call("GET", "/orders?status=failure&limit=50", "/orders (management)")
