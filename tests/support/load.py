"""A load as agents make it, each sender in a thread of its own, that writes down what was acknowledged and refused."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from threading import Event, Thread
from typing import Any
from uuid import UUID

import httpx

from support.batches import command, state, stateful, stateless
from support.server import KEY, Server
from support.waiting import wait_until

PAUSE_SECONDS = 0.02
RETRY_SECONDS = 0.1


@dataclass
class Sender:
    """One kind of request: its attempts, when each was acknowledged, and what else was answered."""

    kind: str
    attempts: int = 0
    acknowledged: dict[str, float] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)

    def is_acknowledged_since(self, moment: float) -> bool:
        return any(at > moment for at in list(self.acknowledged.values()))

    def longest_pause(self, since: float) -> float:
        """The seconds it went without an acknowledgement, at most; to this moment, if it still does."""
        times = sorted(at for at in list(self.acknowledged.values()) if at > since)
        return max(after - before for before, after in pairwise([since, *times, time.monotonic()]))

    def take(self, answer: httpx.Response, accepted: int, *names: str) -> bool:
        self.attempts += 1
        if answer.status_code == accepted:
            self.acknowledged |= dict.fromkeys(names, time.monotonic())
            return True
        retry = "with" if int(answer.headers.get("retry-after", 0)) >= 1 else "without"
        self.refused[f"{answer.status_code} {retry} Retry-After"] += 1
        return False


class Load:
    """Senders that go on until told to stop; each sends the same again until it is acknowledged, as agents do."""

    def __init__(self, submitting: Server) -> None:
        self._submitting = submitting
        self._stopping = Event()
        self.broken: list[BaseException] = []
        self.senders: list[Sender] = []
        self._threads: list[Thread] = []

    def add(self, kind: str, send: Callable[[Sender, int], bool]) -> None:
        sender = Sender(kind)
        self.senders.append(sender)
        self._threads.append(Thread(target=self._repeat, args=(sender, send)))

    def _repeat(self, sender: Sender, send: Callable[[Sender, int], bool]) -> None:
        number = 0
        try:
            while not self._stopping.is_set():
                done = send(sender, number)
                number += done
                time.sleep(PAUSE_SECONDS if done else RETRY_SECONDS)
        except (httpx.HTTPError, AssertionError, LookupError, ValueError) as error:
            self.broken.append(error)

    def add_events(self, agent_id: UUID, client: httpx.Client) -> None:
        def send(sender: Sender, number: int) -> bool:
            name = f"{agent_id} {number}"
            return sender.take(client.post("/events/stateless", content=stateless(agent_id, {"n": name})), 204, name)

        self.add("events", send)

    def add_states(self, agent_id: UUID, client: httpx.Client) -> None:
        def send(sender: Sender, number: int) -> bool:
            name = f"{agent_id} {number}"
            body = stateful(agent_id, state(str(number), "update", {"n": name}))
            return sender.take(client.post("/events/stateful", content=body), 200, name)

        self.add("states", send)

    def add_orders(self, agent_id: UUID) -> None:
        management = self._submitting.management()

        def send(sender: Sender, _number: int) -> bool:
            answer = management.post("/commands", json=command(agent_id))
            made = answer.json()["commands"][0]["order_ids"] if answer.status_code == 201 else []
            return sender.take(answer, 201, *made)

        self.add("orders", send)

    def add_results(self, client: httpx.Client) -> None:
        """Poll for orders and report each."""
        unreported: list[Any] = []

        def send(sender: Sender, _number: int) -> bool:
            if not unreported:
                answer = client.get("/commands?wait=1")
                if not sender.take(answer, 200):
                    return False
                unreported.extend(order["order_id"] for order in answer.json()["commands"])
            report = {"results": [{"order_id": id_, "result": {"code": 0}} for id_ in unreported]}
            if unreported and not sender.take(client.post("/commands/results", json=report), 200, *unreported):
                return False
            unreported.clear()
            return True

        self.add("results", send)

    def add_logins(self, agent_id: UUID, client: httpx.Client) -> None:
        def send(sender: Sender, number: int) -> bool:
            return sender.take(client.post("/login", json={"uuid": str(agent_id), "key": KEY}), 200, str(number))

        self.add("logins", send)

    def acknowledged(self, kind: str) -> set[str]:
        """The names of all that was acknowledged of a kind."""
        return {name for sender in self.senders if sender.kind == kind for name in sender.acknowledged}

    def wait_for_all(self, since: float) -> None:
        """Wait until every sender had something acknowledged after a moment."""
        wait_until(lambda: all(sender.is_acknowledged_since(since) for sender in self.senders))

    def longest_pause(self, since: float) -> float:
        """How long the one that waited longest went without an acknowledgement."""
        return max(sender.longest_pause(since) for sender in self.senders)

    def report(self, since: float) -> str:
        """One line for each kind; pauses count from a moment on."""
        lines = []
        for kind in dict.fromkeys(sender.kind for sender in self.senders):
            senders = [sender for sender in self.senders if sender.kind == kind]
            refused = sum((sender.refused for sender in senders), Counter[str]())
            lines.append(
                f"{kind:8} {sum(sender.attempts for sender in senders):5} requests, "
                f"{len(self.acknowledged(kind)):5} acknowledged, refused: {dict(refused) or 'none'}, "
                f"longest pause {max(sender.longest_pause(since) for sender in senders):.2f} s"
            )
        return "\n".join(lines)

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            for thread in self._threads:
                thread.join()
