"""Metrics: right with several workers, hidden from other clients, and documented."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from sqlalchemy import text
from support.batches import command, state, stateful, stateless
from support.metrics import scrape, total, wait_for
from support.orders import submit
from support.server import PASSWORD, Server, new_id, running_server
from support.waiting import wait_until

from comms_api.database.connection import Engine
from comms_api.embedded_postgresql.cluster import embedded_postgres
from comms_api.meters import Histogram
from comms_api.metrics.exposition import encode
from comms_api.metrics.model import single
from comms_api.metrics.snapshots import Snapshots
from comms_api.metrics.store import OpenOrders, find_open_orders
from comms_api.orders.leases import claim_orders
from comms_api.protocol import IDEMPOTENCY_KEY

WORKERS = 2
_COPY_ORDERS = text("""
    INSERT INTO orders (order_id, request_id, agent_id, agent_groups, attempt, sent_at, expires_at, bytes)
    SELECT uuid7(), request_id, agent_id, agent_groups, attempt, sent_at, expires_at, bytes
    FROM orders CROSS JOIN generate_series(1, 2000)""")


@pytest.fixture(scope="module")
def server(folder: Path, database_url: str) -> Iterator[Server]:
    with running_server(folder, database_url, workers=WORKERS) as running:
        yield running


@pytest.fixture
def fresh(folder: Path, new_database: Callable[[], str]) -> Iterator[Server]:
    """A server whose counters are 0."""
    with running_server(folder / str(new_id()), new_database(), workers=WORKERS) as running:
        yield running


def test_any_worker_answers_for_all(fresh: Server) -> None:
    management = fresh.management()
    agent_id = fresh.enroll(management, "measured")
    for _ in range(20):  # each client has a new connection, which either worker may get
        agent = fresh.log_in(agent_id)
        agent.post("/events/stateless", content=stateless(agent_id, {"n": 1}, {"n": 2}, b"{")).raise_for_status()
    management.post("/commands", json=command(agent_id)).raise_for_status()
    [order] = agent.get("/commands?wait=60").json()["commands"]
    report = {"results": [{"order_id": order["order_id"], "result": {"code": 0}}]}
    agent.post("/commands/results", json=report).raise_for_status()
    management.get("/no/such/path")
    stored = 'api="agents",method="POST",route="/events/stateless"'
    wait_for(
        management,
        {
            f'comms_api_http_requests_total{{{stored},status="204"}}': 20,
            f'comms_api_http_request_duration_seconds_bucket{{{stored},le="+Inf"}}': 20,
            'comms_api_http_requests_total{route="unmatched",status="404"}': 1,
            'comms_api_logins_total{api="agents",outcome="success"}': 20,
            'comms_api_event_batches_total{outcome="stored"}': 20,
            "comms_api_events_total": 40,
            "comms_api_quarantined_lines_total": 20,
            'comms_api_commit_group_size_sum{writer="events"}': 20,
            'comms_api_orders_ended_total{outcome="success"}': 1,
            "comms_api_order_offer_delay_seconds_count": 1,
            "comms_api_order_execution_seconds_count": 1,
            "comms_api_orders_open": 0,
            "comms_api_database_up": 1,
        },
    )
    text = scrape(management)
    assert {f'worker="{worker}"' in text for worker in range(WORKERS)} == {True}


def test_a_repeated_batch_stores_no_events_and_changes_no_states(fresh: Server) -> None:
    management = fresh.management()
    agent_id = fresh.enroll(management, "repeating")
    agent = fresh.log_in(agent_id)
    key = {IDEMPOTENCY_KEY: "again"}
    for _ in range(3):
        agent.post("/events/stateless", content=stateless(agent_id, {}), headers=key).raise_for_status()
        agent.post("/events/stateful", content=stateful(agent_id, state("1")), headers=key).raise_for_status()
    refused = agent.post("/events/stateful", content=stateful(agent_id, state("2")), headers=key)
    assert refused.status_code == 422
    wait_for(
        management,
        {
            "comms_api_events_total": 1,
            'comms_api_event_batches_total{outcome="stored"}': 1,
            'comms_api_event_batches_total{outcome="repeated"}': 2,
            "comms_api_state_changes_total": 1,
            'comms_api_state_batches_total{outcome="applied"}': 1,
            'comms_api_state_batches_total{outcome="repeated"}': 2,
        },
    )


def test_cancelled_orders_logins_of_users_and_revocations_are_counted(fresh: Server) -> None:
    management = fresh.management()
    agent_id = fresh.enroll(management, "cancelled")
    submitted = management.post("/commands", json=[command(agent_id), command(agent_id)]).json()
    first, second = submitted["commands"]
    management.post(f"/commands/{first['request_id']}/cancel").raise_for_status()
    management.post(f"/orders/{second['order_ids'][0]}/cancel").raise_for_status()
    wrong = fresh.client(fresh.management_url).post("/security/user/authenticate", auth=("admin", "wrong"))
    assert wrong.status_code == 401
    fresh.user(management, "leaving", "reader").delete("/security/user/authenticate").raise_for_status()
    wait_for(
        management,
        {
            'comms_api_orders_ended_total{outcome="cancelled"}': 2,
            'comms_api_logins_total{api="management",outcome="success"}': 2,
            'comms_api_logins_total{api="management",outcome="unauthenticated"}': 1,
            "comms_api_revocation_lag_seconds_count": WORKERS,
        },
    )


def test_only_users_and_listed_addresses_may_read(
    server: Server, management: httpx.Client, folder: Path, new_database: Callable[[], str]
) -> None:
    assert server.client(server.management_url).get("/metrics").status_code == 401
    reader = server.user(management, "metrics-reader", "reader")
    assert reader.get("/metrics").status_code == 200
    with_password = server.client(server.management_url).get("/metrics", auth=("metrics-reader", PASSWORD))
    assert with_password.status_code == 200
    assert server.user(management, "metrics-service", "service").get("/metrics").status_code == 403
    with running_server(folder / "open", new_database(), metrics_networks="127.0.0.0/8,::1/128") as other:
        anonymous = other.client(other.management_url)
        answer = anonymous.get("/metrics")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert anonymous.get("/agents").status_code == 401


def test_the_successor_of_a_worker_that_has_died_takes_its_place(fresh: Server) -> None:
    management, started = fresh.management(), "process_start_time_seconds"
    wait_until(lambda: all(total(scrape(management), f'{started}{{worker="{n}"}}') for n in range(WORKERS)))
    before = {n: total(scrape(management), f'{started}{{worker="{n}"}}') for n in range(WORKERS)}
    victim, *_ = psutil.Process(fresh.process.pid).children()
    victim.kill()

    def replaced() -> int:
        after = scrape(fresh.management())  # the connection may have ended with the worker
        return sum(total(after, f'{started}{{worker="{n}"}}') > before[n] for n in range(WORKERS))

    wait_until(lambda: replaced() == 1)


def test_a_node_without_its_database_still_shows_its_metrics(folder: Path, scratch: Path) -> None:
    with (
        embedded_postgres(scratch / "metrics", durable=False) as cluster,
        running_server(folder / "away", cluster.url, metrics_networks="127.0.0.0/8") as server,
    ):
        client = server.client(server.management_url)
        wait_for(client, {"comms_api_database_up": 1, "comms_api_orders_open": 0})
        assert "comms_api_orders_oldest_age_seconds" in scrape(client)
        cluster.stop("fast")
        wait_for(client, {"comms_api_database_up": 0})
        assert "comms_api_orders_oldest_age_seconds" not in scrape(client)
        cluster.bring_up()
        wait_for(client, {"comms_api_database_up": 1})


def test_a_snapshot_that_is_being_written_is_skipped() -> None:
    snapshots = Snapshots(2)
    snapshots.write(1, [single("gauge", "a", "help", 1.0)])
    assert [*snapshots.read()] == [1]
    snapshots._memory[2**20 + 17] ^= 1  # noqa: SLF001 - half of another process's write
    assert snapshots.read() == {}


def test_a_histogram_counts_values_up_to_their_bounds() -> None:
    histogram = Histogram((0.5, 2))
    for value in (0.1, 0.5, 1, 2, 3):
        histogram.observe(value)
    assert encode([single("histogram", "h", "help", histogram)]).decode().splitlines() == [
        "# HELP comms_api_h help",
        "# TYPE comms_api_h histogram",
        'comms_api_h_bucket{le="0.5"} 2.0',
        'comms_api_h_bucket{le="2.0"} 4.0',
        'comms_api_h_bucket{le="+Inf"} 5.0',
        "comms_api_h_count 5.0",
        "comms_api_h_sum 6.6",
    ]


@pytest.mark.anyio
async def test_open_orders_are_counted_or_estimated(engine: Engine) -> None:
    async with engine.connect() as connection:
        assert await find_open_orders(connection) == OpenOrders(0, 0, 0)
    _, agents = await submit(engine, 30)
    async with engine.connect() as connection:
        await claim_orders(connection, agents[:10], 60)
        found = await find_open_orders(connection)
        assert (found.pending, found.sent) == (20, 10)
        assert found.oldest_seconds > 0
        await connection.execute(_COPY_ORDERS)
        found = await find_open_orders(connection)
        assert found.pending == pytest.approx(40_020, rel=0.2)
        assert found.sent == pytest.approx(20_010, rel=0.2)
