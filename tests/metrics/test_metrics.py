"""Metrics: right with several workers, for those who may read them, and documented."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from support.batches import command, state, stateful, stateless
from support.server import PASSWORD, Server, running_server
from support.waiting import wait_until

from comms_api.meters import Histogram
from comms_api.metrics.model import single
from comms_api.metrics.snapshots import Snapshots

WORKERS = 2
DOCUMENT = (Path(__file__).parents[2] / "docs/operations/metrics.md").read_text()


@pytest.fixture(scope="module")
def server(folder: Path, database_url: str) -> Iterator[Server]:
    with running_server(folder, database_url, workers=WORKERS) as running:
        yield running


def total(text: str, name: str, **labels: str) -> float:
    """Return the sum of the samples with these labels."""
    parts = [f'{label}="{value}"' for label, value in labels.items()]
    lines = [line for line in text.splitlines() if re.match(rf"{name}[{{ ]", line)]
    return sum(float(line.rpartition(" ")[2]) for line in lines if all(part in line for part in parts))


def test_any_worker_answers_for_all(server: Server, management: httpx.Client) -> None:
    agent_id = server.enroll(management, "measured")
    for _ in range(20):  # each client has a new connection, which either worker may get
        agent = server.log_in(agent_id)
        agent.post("/events/stateless", content=stateless(agent_id, {"n": 1}, {"n": 2})).raise_for_status()
    agent.post("/events/stateful", content=stateful(agent_id, state("1"))).raise_for_status()
    management.post("/commands", json=command(agent_id)).raise_for_status()
    [order] = agent.get("/commands?wait=60").json()["commands"]
    report = {"results": [{"order_id": order["order_id"], "result": {"code": 0}}]}
    agent.post("/commands/results", json=report).raise_for_status()
    management.get("/no/such/path")

    def scrape() -> str:
        return management.get("/metrics").text

    wait_until(lambda: total(scrape(), "comms_api_events_total") == 40)
    wait_until(lambda: total(scrape(), "comms_api_orders_ended_total", outcome="success") == 1)
    text = scrape()
    stored = {"route": "/events/stateless", "method": "POST", "api": "agents"}
    assert total(text, "comms_api_http_requests_total", status="204", **stored) == 20
    assert total(text, "comms_api_http_request_duration_seconds_bucket", le="+Inf", **stored) == 20
    assert total(text, "comms_api_http_requests_total", status="404", route="unmatched") == 1
    assert total(text, "comms_api_logins_total", outcome="success") == 20
    assert total(text, "comms_api_state_changes_total") == 1
    assert total(text, "comms_api_order_answer_delay_seconds_count") == 1
    assert total(text, "comms_api_orders_open") == 0
    assert {f'worker="{worker}"' in text for worker in range(WORKERS)} == {True}


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


def test_every_metric_is_documented(management: httpx.Client) -> None:
    names = set(re.findall(r"^# TYPE (\w+) ", management.get("/metrics").text, re.MULTILINE))
    documented = set(re.findall(r"^\| `((?:comms_api|process)_\w+)`", DOCUMENT, re.MULTILINE))
    assert len(names) > 20
    assert names <= documented
    optional = {name for name in documented if re.search(r"jetstream|key_requests", name)}
    assert documented - names == optional


def test_a_snapshot_that_is_being_written_is_skipped() -> None:
    snapshots = Snapshots(2)
    snapshots.write(1, [single("gauge", "a", "help", 1.0)])
    assert [*snapshots.read()] == [1]
    snapshots._memory[2**20 + 9] ^= 1  # noqa: SLF001 - half of another process's write
    assert snapshots.read() == {}


def test_a_histogram_counts_values_up_to_their_bounds() -> None:
    histogram = Histogram((1, 2))
    for value in (0.5, 1, 1.5, 2, 3):
        histogram.observe(value)
    samples = {
        sample.labels.get("le", sample.suffix): sample.value
        for sample in single("histogram", "h", "", histogram).samples
    }
    assert samples == {"1": 2, "2": 4, "+Inf": 5, "_count": 5, "_sum": 8}
