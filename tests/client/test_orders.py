"""The agent executes each order of a real server once, even if an action takes longer than the server's lease."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.batches import command
from support.server import KEY, Server
from support.waiting import wait_until

from comms_api.client.spool.model import Statistics
from comms_api.client.spool.spool import Spool

WORKER = """
import asyncio, sys
from pathlib import Path
from comms_api.client.transport.endpoint import Endpoint
from comms_api.client.spool.model import Identity
from comms_api.client.orders.loop import OrderLoop, success
from comms_api.client.orders.trust import Trust
from comms_api.client.transport.servers import Servers
from comms_api.client.transport.session import Session
from comms_api.client.spool.thread import SpoolThread

async def slow(order):
    print("begun", order.order_id, flush=True)
    while not (Path(sys.argv[-1]) / "may end").exists():
        await asyncio.sleep(0.05)
    return success("done")

async def broken(order):
    raise ValueError("broken")

async def main(url, ca, agent_id, key, folder):
    spool = SpoolThread(Path(folder) / "spool.sqlite", 2**20)
    async with Servers([Endpoint(url, Path(ca))], agent_id, spool, 600) as servers:
        session = Session(servers, Identity(agent_id, key), spool)
        await OrderLoop(session, spool, {"slow": slow, "broken": broken}, Trust((), agent_id), 5).run()

asyncio.run(main(*sys.argv[1:]))
"""


class Worker:
    """A process that executes the orders of a server."""

    def __init__(self, server: Server, management: httpx.Client, folder: Path) -> None:
        self.management = management
        self.folder = folder
        self.agent_id = server.enroll(management, folder.name)
        ca = server.folder / "certs" / "ca.pem"
        arguments = [server.agent_url, str(ca), str(self.agent_id), KEY, str(folder)]
        self.command = [sys.executable, "-c", WORKER, *arguments]
        self.process = self.start()

    def start(self) -> subprocess.Popen[str]:
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        return self.process

    def let_end(self) -> None:
        """Let each action `slow` end."""
        (self.folder / "may end").touch()

    def kill(self) -> str:
        """Kill the process and return what it printed."""
        self.process.send_signal(signal.SIGKILL)
        return self.process.communicate()[0]

    def order(self, action: str) -> str:
        answer = self.management.post("/commands", json=command(self.agent_id, action=action))
        order_id: str = answer.json()["commands"][0]["order_ids"][0]
        return order_id

    def outcome(self, order_id: str) -> tuple[str, int, str]:
        """Wait until an order has ended, and return its status and the code and message of its result."""

        def order() -> dict[str, Any]:
            found: dict[str, Any] = self.management.get(f"/orders/{order_id}").json()
            return found

        wait_until(lambda: order()["status"] in {"success", "failure"}, says=order)
        return order()["status"], order()["result"]["code"], order()["result"]["message"]

    def shown_outcome(self, order_id: str) -> str:
        """Return the outcome that the server shows of an ended order."""
        outcome: str = self.management.get(f"/orders/{order_id}").json()["outcome"]
        return outcome

    def statistics(self) -> Statistics:
        spool = Spool(self.folder / "spool.sqlite", 2**20)
        statistics = spool.statistics()
        spool.close()
        return statistics


@pytest.fixture
def worker(server: Server, management: httpx.Client, tmp_path: Path) -> Iterator[Worker]:
    started = Worker(server, management, tmp_path)
    yield started
    if started.process.poll() is None:
        started.kill()


def test_an_order_that_is_offered_again_is_not_executed_again(worker: Worker) -> None:
    order_id = worker.order("slow")
    wait_until(lambda: worker.statistics().orders_duplicate)
    worker.let_end()
    assert worker.outcome(order_id) == ("success", 0, "done")
    assert worker.kill() == f"begun {order_id}\n"
    statistics = worker.statistics()
    assert statistics.orders_executed == 1
    assert statistics.orders_received == statistics.orders_executed + statistics.orders_duplicate


def test_an_order_that_a_kill_interrupts_ends_as_unknown_and_is_not_executed_again(worker: Worker) -> None:
    order_id = worker.order("slow")
    assert worker.process.stdout is not None
    assert worker.process.stdout.readline() == f"begun {order_id}\n"
    worker.kill()
    worker.start()
    status, code, message = worker.outcome(order_id)
    assert (status, code) == ("failure", 4)
    assert "restarted" in message
    assert worker.kill() == ""


def test_an_action_that_fails_or_is_unknown_is_reported_with_the_reason(worker: Worker) -> None:
    broken, other = worker.order("broken"), worker.order("other")
    assert worker.outcome(broken) == ("failure", 1, "ValueError: broken")
    assert worker.outcome(other) == ("failure", 1, "this agent has no action 'other'")
    assert [worker.shown_outcome(order_id) for order_id in (broken, other)] == ["failed", "rejected"]
    [rejected] = worker.management.get(f"/orders?agent_id={worker.agent_id}&outcome=rejected").json()["items"]
    assert rejected["order_id"] == other


def test_a_cancelled_order_is_interrupted_and_others_continue(worker: Worker) -> None:
    first, second = worker.order("slow"), worker.order("slow")
    assert worker.process.stdout is not None
    assert {worker.process.stdout.readline().split()[1] for _ in range(2)} == {first, second}
    assert worker.management.post(f"/orders/{first}/cancel").json()["status"] == "cancelled"

    def notice() -> dict[str, Any]:
        [found] = worker.management.get(f"/orders?action=cancel&agent_id={worker.agent_id}").json()["items"]
        return dict(found)

    wait_until(lambda: notice()["status"] == "success", says=notice)
    assert notice()["action"]["args"] == {"order_id": first}
    assert notice()["result"]["data"] == {"orders": [first]}
    worker.let_end()
    assert worker.outcome(second)[0] == "success"
