"""HAProxy and nginx, with the configurations of `deploy/`, in front of two nodes, one of which is killed."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from signal import SIGKILL
from uuid import UUID

import httpx
import pytest
import trustme
from support.balancers import BEHIND_BALANCERS, CONFIGURATIONS, Balancer, configuration, running_balancer
from support.batches import command, state, stateful, stateless
from support.heartbeats import wait_for_polls
from support.names import running_name_server
from support.raw import connect, read_answer, request
from support.server import KEY, Server, new_id, running_server, start_server
from support.waiting import PATIENCE, wait_until

from comms_api.app.hypercorn_server import KEEP_ALIVE_SECONDS
from comms_api.settings import Settings

HELD_SECONDS = 11.0
"""Longer than the balancers' short timeouts: 3 s to connect, 10 s to find a node."""

CLIENT_ADDRESS = "127.0.0.9"
UNUSED_ADDRESS = "127.0.0.10"
"""An address at which no node listens."""

RESOLVED_SECONDS = 10.0
"""HAProxy resolves a name again after this time."""


@pytest.fixture(scope="module")
def nodes(folder: Path, database_url: str) -> Iterator[list[Server]]:
    """Two nodes on one database. They share a folder, and so the secret and the certificate."""
    with ExitStack() as stack:
        started = []
        for name in ("one", "two"):
            started.append(new_node(folder, database_url, name))
            stack.callback(started[-1].stop)
        yield started


def new_node(folder: Path, database_url: str, name: str) -> Server:
    return start_server(folder, database_url, node_name=name, sweep_seconds=1, lease_seconds=5, **BEHIND_BALANCERS)


@pytest.fixture(scope="module")
def administrator(nodes: list[Server]) -> httpx.Client:
    return nodes[0].management()


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def balancer(request: pytest.FixtureRequest, folder: Path, nodes: list[Server]) -> Iterator[Balancer]:
    with running_balancer(request.param, folder, nodes) as running:
        yield running


@pytest.fixture
def agent_id(nodes: list[Server], administrator: httpx.Client) -> UUID:
    return nodes[0].enroll(administrator, f"balanced-{new_id().hex[-8:]}")


@pytest.fixture
def agent(balancer: Balancer, nodes: list[Server], agent_id: UUID) -> Iterator[httpx.Client]:
    with logged_in(balancer, nodes[0], agent_id) as client:
        yield client


def logged_in(balancer: Balancer, node: Server, agent_id: UUID) -> httpx.Client:
    """Return an agent's client, which opens a connection for each request as real agents do."""
    transport = httpx.HTTPTransport(
        verify=node.tls, local_address=CLIENT_ADDRESS, limits=httpx.Limits(max_keepalive_connections=0)
    )
    client = httpx.Client(base_url=balancer.agent_url, transport=transport, timeout=PATIENCE)
    client.headers["Authorization"] = f"Bearer {node.token(agent_id)}"
    return client


def submit(administrator: httpx.Client, agent_id: UUID) -> str:
    [submitted] = administrator.post("/commands", json=command(agent_id)).json()["commands"]
    [order_id] = submitted["order_ids"]
    return str(order_id)


def poll(agent: httpx.Client) -> list[str]:
    answer = agent.get("/commands?wait=60")
    assert answer.status_code == 200, answer.text
    return [order["order_id"] for order in answer.json()["commands"]]


def test_an_agent_logs_in_sends_batches_and_gets_its_order(
    agent: httpx.Client, agent_id: UUID, administrator: httpx.Client
) -> None:
    assert agent.post("/login", json={"uuid": str(agent_id), "key": KEY}).status_code == 200
    answer = agent.post("/events/stateless", content=stateless(agent_id, {"n": 1}))
    assert answer.status_code == 204, answer.text
    answer = agent.post("/events/stateful", content=stateful(agent_id, state("s")))
    assert [item["status"] for item in answer.json()["results"]] == [201]
    order_id = submit(administrator, agent_id)
    assert poll(agent) == [order_id]
    report = {"results": [{"order_id": order_id, "result": {"code": 0}}]}
    assert agent.post("/commands/results", json=report).json()["results"][0]["result"] == "updated"


def test_an_operator_reaches_the_management_api_through_the_balancer(
    balancer: Balancer, nodes: list[Server], administrator: httpx.Client
) -> None:
    headers = {"Authorization": administrator.headers["Authorization"]}
    with httpx.Client(
        base_url=balancer.management_url, verify=nodes[0].tls, headers=headers, timeout=PATIENCE
    ) as client:
        assert client.get("/agents").status_code == 200


def test_nodes_see_the_clients_address(agent: httpx.Client, agent_id: UUID, administrator: httpx.Client) -> None:
    agent.headers["X-Forwarded-For"] = "198.51.100.7"  # a client cannot forge its address

    def seen_from() -> str:
        assert agent.get("/commands?wait=0").status_code == 200
        return str(administrator.get(f"/agents/{agent_id}").json()["remote_address"])

    wait_until(lambda: seen_from() == CLIENT_ADDRESS, pause_seconds=0.5)


def test_the_largest_body_passes_and_the_node_refuses_a_larger_one(
    balancer: Balancer, nodes: list[Server], agent: httpx.Client, agent_id: UUID
) -> None:
    limit = Settings().body_bytes_maximum
    events = ["x" * 16_000] * (limit // 16_100)
    body = stateless(agent_id, *events)
    padding = stateless(agent_id, *events, "x" * (limit - len(body) - 3))
    assert len(padding) == limit
    assert agent.post("/events/stateless", content=padding).status_code == 204
    token = agent.headers["Authorization"].partition(" ")[2]
    with connect(nodes[0].tls, balancer.agent_port) as connection:
        connection.sendall(request("POST", "/events/stateless", token, padding + b"\n"))
        answer = read_answer(connection)
    assert (answer.status, answer.headers["content-type"]) == (413, "application/problem+json")


def test_a_large_head_is_refused(balancer: Balancer, nodes: list[Server]) -> None:
    # The refusal may get lost: the connection may be closed before the whole request has been sent.
    status = None
    with suppress(OSError), connect(nodes[0].tls, balancer.agent_port) as connection:
        connection.sendall(request("GET", "/", None, b"", "X-Large: " + "x" * 100_000))
        status = read_answer(connection).status
    assert status in {400, 431, None}


def test_polls_are_held_longer_than_the_short_timeouts(
    folder: Path, nodes: list[Server], administrator: httpx.Client
) -> None:
    with ExitStack() as stack:
        held: list[tuple[UUID, Future[list[str]]]] = []
        threads = stack.enter_context(ThreadPoolExecutor(len(CONFIGURATIONS)))
        for name in CONFIGURATIONS:
            running = stack.enter_context(running_balancer(name, folder / "held" / name, nodes))
            agent_id = nodes[0].enroll(administrator, f"held-{new_id().hex[-8:]}")
            client = stack.enter_context(logged_in(running, nodes[0], agent_id))
            held.append((agent_id, threads.submit(poll, client)))
        time.sleep(HELD_SECONDS)
        assert [poll.done() for _, poll in held] == [False] * len(CONFIGURATIONS)
        expected = [[submit(administrator, agent_id)] for agent_id, _ in held]
        assert [poll.result(timeout=PATIENCE) for _, poll in held] == expected


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_killed_node_costs_an_agent_one_poll_at_most(
    name: str, folder: Path, database_url: str, nodes: list[Server], administrator: httpx.Client
) -> None:
    victim = new_node(folder, database_url, f"victim-{new_id().hex[-8:]}")
    with ExitStack() as stack:
        stack.callback(victim.stop)
        running = stack.enter_context(running_balancer(name, folder / "killed" / name, [victim, nodes[0]]))
        ids = [nodes[0].enroll(administrator, f"killed-{new_id().hex[-8:]}") for _ in range(6)]
        agents = [stack.enter_context(logged_in(running, nodes[0], agent_id)) for agent_id in ids]
        threads = stack.enter_context(ThreadPoolExecutor(len(agents)))
        held = [threads.submit(poll_until_answered, agent) for agent in agents]
        wait_until(lambda: running.connections_to(victim) + running.connections_to(nodes[0]) == len(agents))
        wait_for_polls(administrator, len(agents))
        lost_connections = running.connections_to(victim)
        assert lost_connections
        victim.process.send_signal(SIGKILL)
        victim.process.wait()
        codes = [agents[0].get("/").status_code for _ in range(10)]
        assert codes == [200] * 10
        for agent_id, agent in zip(ids, agents, strict=True):
            assert agent.post("/events/stateless", content=stateless(agent_id, {"n": 1})).status_code == 204
        expected = [[submit(administrator, agent_id)] for agent_id in ids]
        answers = [poll.result(timeout=PATIENCE) for poll in held]
        assert [orders for orders, _ in answers] == expected
        lost = [count for _, count in answers]
        # A balancer that terminates TLS repeats the polls. Behind the others, the agents do.
        assert max(lost) <= 1
        assert sum(lost) == (0 if "termination" in name else lost_connections)


def poll_until_answered(agent: httpx.Client) -> tuple[list[str], int]:
    """Poll until there is an answer; return it and the number of lost polls."""
    lost = 0
    while True:
        try:
            return poll(agent), lost
        except httpx.TransportError:
            lost += 1
            assert lost < 5
            time.sleep(0.5)  # a dying process closes its sockets one by one, the listening one perhaps last


@pytest.mark.parametrize("name", [name for name in CONFIGURATIONS if "haproxy" in name])
def test_a_draining_node_gets_no_new_agents(
    name: str, folder: Path, nodes: list[Server], administrator: httpx.Client
) -> None:
    ids = [nodes[1].enroll(administrator, f"drained-{new_id().hex[-8:]}") for _ in range(4)]
    with ExitStack() as stack:
        running = stack.enter_context(running_balancer(name, folder / "drained" / name, nodes))
        agents = [stack.enter_context(logged_in(running, nodes[1], agent_id)) for agent_id in ids]
        assert administrator.post("/nodes/one/drain").status_code == 200
        stack.callback(administrator.post, "/nodes/one/resume")
        # The node drains at once, the balancer notices it by two checks, and nodes store their agents every second.
        wait_until(lambda: nodes_that_answer(administrator, dict(zip(ids, agents, strict=True))) == ["two"] * 4)


def nodes_that_answer(administrator: httpx.Client, agents: Mapping[UUID, httpx.Client]) -> list[str]:
    """Let each agent poll, and return the nodes that answered."""
    assert [agent.get("/commands?wait=0").status_code for agent in agents.values()] == [200] * len(agents)
    time.sleep(2)
    return [administrator.get(f"/agents/{agent_id}").json()["node"] for agent_id in agents]


@pytest.mark.parametrize("name", [name for name in CONFIGURATIONS if "haproxy" in name])
def test_if_no_node_is_ready_the_nodes_themselves_answer(name: str, folder: Path, nodes: list[Server]) -> None:
    with running_balancer(name, folder / "unready" / name, nodes, {"uri /ready": "uri /never"}) as running:
        time.sleep(4)
        answer = httpx.post(
            f"{running.agent_url}/login",
            verify=nodes[0].tls,
            timeout=PATIENCE,
            json={"uuid": str(new_id()), "key": KEY},
        )
    assert (answer.status_code, answer.json()["message"]) == (403, "Agent does not exist")


@pytest.mark.parametrize("name", [name for name in CONFIGURATIONS if "haproxy" in name])
def test_a_node_is_found_when_its_name_gets_an_address_or_changes_it(
    name: str, folder: Path, nodes: list[Server]
) -> None:
    port = nodes[0].agent_port
    with running_name_server() as names:
        changes = {
            "parse-resolv-conf": f"nameserver test 127.0.0.1:{names.port}",
            f"127.0.0.1:{port}": f"node.test:{port}",
        }
        with running_balancer(name, folder / "moved" / name, nodes[:1], changes) as running:
            assert not serves(running, nodes[0])
            names.addresses["node.test"] = UNUSED_ADDRESS
            time.sleep(2 * RESOLVED_SECONDS)
            assert not serves(running, nodes[0])
            names.addresses["node.test"] = "127.0.0.1"
            wait_until(lambda: serves(running, nodes[0]))


def serves(balancer: Balancer, node: Server) -> bool:
    """Return whether a request reaches a node."""
    try:
        return httpx.get(f"{balancer.agent_url}/", verify=node.tls, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("name", [name for name in CONFIGURATIONS if "pass-through" in name])
def test_client_certificates_reach_the_node(name: str, folder: Path, new_database: Callable[[], str]) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "agents.pem")
    settings = {"client_certificates": "required", "client_ca": folder / "agents.pem", **BEHIND_BALANCERS}
    with running_server(folder / "certified" / name, new_database(), **settings) as node:
        agent_id = node.enroll(node.management(), "certified")
        tls = node.tls
        authority.issue_cert("agent.example", common_name=str(agent_id)).configure_cert(tls)
        with running_balancer(name, folder / "certified" / name, [node]) as running:
            answer = httpx.post(
                f"{running.agent_url}/login", verify=tls, timeout=PATIENCE, json={"uuid": str(agent_id), "key": KEY}
            )
    assert answer.status_code == 200, answer.text


def find_seconds(text: str, pattern: str) -> list[float]:
    units = {"ms": 0.001, "s": 1.0, "m": 60.0}
    return [float(number) * units[unit] for number, unit in re.findall(rf"{pattern} (\d+)(ms|s|m)\b", text)]


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_timeouts_are_longer_than_a_held_poll(name: str) -> None:
    text, poll_seconds = configuration(name), Settings().poll_wait_seconds
    silent = find_seconds(text, "timeout (?:client|server)") + find_seconds(text, "proxy_(?:read_)?timeout")
    assert silent
    assert min(silent) >= poll_seconds + 10
    if name == "nginx/termination":
        idle = find_seconds(text, " {8}keepalive_timeout")
        assert len(idle) == 2
        assert max(idle) < KEEP_ALIVE_SECONDS


def test_only_requests_that_change_nothing_are_repeated() -> None:
    assert "http-request disable-l7-retry unless METH_GET" in configuration("haproxy/termination")
    assert all("non_idempotent;" not in configuration(name) for name in CONFIGURATIONS)
