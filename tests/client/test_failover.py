"""An agent of several real nodes, which are killed, restarted and drained, loses nothing and comes back."""

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.agents import Agent
from support.batches import command
from support.events import stored_texts
from support.ports import fixed_binds
from support.server import Server, start_server
from support.waiting import PATIENCE, wait_until

Query = Callable[..., list[Any]]
LINES = 50


class Nodes:
    """Two nodes on one database; each can be killed and started again on its ports."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self._settings = {name: {"node_name": name, "lease_seconds": 2, **fixed_binds()} for name in ("one", "two")}
        self._folder = folder
        self._database_url = database_url
        self.running = {name: self._start(name) for name in self._settings}

    def _start(self, name: str) -> Server:
        return start_server(self._folder, self._database_url, **self._settings[name])

    def kill(self, name: str) -> None:
        self.running[name].stop(signal.SIGKILL)

    def restart(self, name: str) -> None:
        self.running[name] = self._start(name)

    def management(self, name: str) -> httpx.Client:
        return self.running[name].management()

    def of_agent(self, agent: Agent) -> str:
        """Return the name of the node that the agent uses, by its log."""
        url = re.findall(r"(?:connected to|using) (\S+)", agent.log())[-1]
        return next(name for name, node in self.running.items() if node.agent_url == url)


@pytest.fixture
def nodes(folder: Path, database_url: str) -> Iterator[Nodes]:
    started = Nodes(folder, database_url)
    yield started
    for node in started.running.values():
        node.stop()


@contextmanager
def running_agent(nodes: Nodes, folder: Path, name: str, *extra: str) -> Iterator[Agent]:
    agent = Agent(list(nodes.running.values()), folder, name, "--no-inventory", *extra)
    try:
        wait_until(lambda: agent.statistics().get("logins"), says=agent.log)
        yield agent
    finally:
        agent.stop()


def other(name: str) -> str:
    return "two" if name == "one" else "one"


def write(agent: Agent, number: int) -> None:
    with agent.log_file.open("a") as file:
        file.writelines(f"line {number} {line}\n" for line in range(LINES))


def ping(management: httpx.Client, agent: Agent) -> str:
    """Send a ping to the agent; return the id of its order."""
    found = management.get("/agents", params={"name": agent.folder.name}).json()["items"]
    answer = management.post("/commands", json=command(found[0]["id"], action="ping"))
    order_id: str = answer.json()["commands"][0]["order_ids"][0]
    return order_id


def wait_for_success(management: httpx.Client, order_id: str, agent: Agent) -> None:
    wait_until(lambda: management.get(f"/orders/{order_id}").json()["status"] == "success", says=agent.log)


def wait_for_events(agent: Agent, count: int) -> None:
    wait_until(lambda: agent.statistics()["events_sent"] == count, says=agent.log)


def test_events_and_orders_survive_nodes_that_are_killed_in_turn(nodes: Nodes, folder: Path, query: Query) -> None:
    orders = []
    with running_agent(nodes, folder, "in-turn") as agent:
        for round_ in range(4):
            write(agent, 2 * round_)
            lost = nodes.of_agent(agent)
            nodes.kill(lost)
            write(agent, 2 * round_ + 1)
            management = nodes.management(other(lost))
            orders.append(ping(management, agent))
            wait_for_success(management, orders[-1], agent)
            wait_for_events(agent, 2 * (round_ + 1) * LINES)
            nodes.restart(lost)
    written = [f"line {number} {line}" for number in range(8) for line in range(LINES)]
    assert sorted(stored_texts(query)) == sorted(written)
    assert agent.statistics()["events_dropped"] == 0
    assert agent.statistics()["orders_executed"] == len(orders)


def test_a_restarted_node_gets_its_agents_back(nodes: Nodes, folder: Path) -> None:
    with running_agent(nodes, folder, "comes-back", "--return-seconds", "1") as agent:
        first = nodes.of_agent(agent)
        nodes.kill(first)
        wait_until(lambda: nodes.of_agent(agent) == other(first), says=agent.log)
        nodes.restart(first)
        wait_until(lambda: nodes.of_agent(agent) == first, says=agent.log)


def test_an_agent_leaves_a_node_that_drains_and_returns_after_it_is_resumed(nodes: Nodes, folder: Path) -> None:
    with running_agent(nodes, folder, "drained", "--wait-seconds", "60", "--return-seconds", "30") as agent:
        first = nodes.of_agent(agent)
        management = nodes.management(other(first))
        management.post(f"/nodes/{first}/drain")
        wait_until(lambda: nodes.of_agent(agent) == other(first), says=agent.log)
        management.post(f"/nodes/{first}/resume")
        wait_until(lambda: nodes.of_agent(agent) == first, says=agent.log)


def test_an_agent_enrolls_at_the_node_that_lives(nodes: Nodes, folder: Path) -> None:
    urls = list(nodes.running.values())
    nodes.kill("one")
    for number in range(3):  # each agent asks the nodes in a random order
        agent = Agent(urls, folder, f"enrolls-{number}", "--once", "--no-inventory")
        assert agent.process.wait(PATIENCE) == 0, agent.log()
    nodes.kill("two")
    agent = Agent(urls, folder, "nowhere", "--once", "--no-inventory")
    assert agent.process.wait(PATIENCE) == 1
    assert "cannot enroll at https://" in agent.log().splitlines()[-1]
