"""Traces, as a collector receives them from real nodes."""

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from support.batches import command, state, stateful, stateless
from support.collectors import Collector, ReceivedSpan, running_collector
from support.databases import querying
from support.ports import free_ports
from support.server import KEY, PASSWORD, Server, running_server
from support.waiting import PATIENCE, wait_until

from comms_api.app.tracing import COMPLAINT_SECONDS
from comms_api.errors import CommsError

SERVER_KIND, PRODUCER, CONSUMER = 2, 4, 5


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with running_collector() as running:
        yield running


@pytest.fixture(scope="module")
def nodes(collector: Collector, folder: Path, database_url: str) -> Iterator[Sequence[Server]]:
    """Two nodes of one database; the second has two workers."""
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        for name, value in collector.variables.items():
            patch.setenv(name, value)
        start = partial(running_server, traces=True, database_url=database_url)
        one = stack.enter_context(start(folder / "one", node_name="one", log_format="json", access_log=True))
        secret = one.folder / "data" / "secret"
        two = stack.enter_context(start(folder / "two", node_name="two", workers=2, secret_file=secret))
        yield one, two


@pytest.fixture(scope="module")
def management(nodes: Sequence[Server]) -> httpx.Client:
    return nodes[0].management()


class Trace:
    """The trace of a client, and the header that continues it."""

    def __init__(self, flags: str = "01") -> None:
        self.id, self.span = secrets.token_hex(16), secrets.token_hex(8)
        self.headers = {"traceparent": f"00-{self.id}-{self.span}-{flags}"}


def named(spans: Sequence[ReceivedSpan], name: str) -> list[ReceivedSpan]:
    return [span for span in spans if span.name == name]


def answer_once(agent: httpx.Client, headers: dict[str, str]) -> UUID:
    """Poll until there is an order, report its success, and return its id."""
    orders: list[dict[str, str]] = []
    while not orders:
        orders = agent.get("/commands", timeout=PATIENCE).json()["commands"]
    [order] = orders
    results = {"results": [{"order_id": order["order_id"], "result": {"code": 0, "message": "", "data": None}}]}
    answer = agent.post("/commands/results", json=results, headers=headers)
    assert [result["status"] for result in answer.json()["results"]] == [200]
    return UUID(order["order_id"])


def test_one_trace_tells_the_whole_life_of_a_command(
    nodes: Sequence[Server], management: httpx.Client, collector: Collector
) -> None:
    group, operators = f"g-{secrets.token_hex(4)}", Trace()
    management.post("/groups", json={"name": group})
    ids = [node.enroll(management, f"{group}-{number}", (group,)) for number, node in enumerate(nodes)]
    agents = [node.log_in(agent_id) for node, agent_id in zip(nodes, ids, strict=True)]
    reports = [Trace(), Trace()]
    with ThreadPoolExecutor(2) as threads:
        answering = [
            threads.submit(answer_once, agent, trace.headers) for agent, trace in zip(agents, reports, strict=True)
        ]
        submitted = management.post("/commands", json=command(group, "group"), headers=operators.headers)
        order_ids = {str(future.result(PATIENCE)) for future in answering}
    request_id = submitted.json()["commands"][0]["request_id"]
    expected = {
        "POST /commands": 1,
        "submit": 1,
        "commit": 1,
        "expand": 1,
        "claim": 2,
        "poll answer": 2,
        "report": 2,
    }
    # The processes export their spans in any order.
    spans = collector.wait_for(lambda found: Counter(span.name for span in found) == expected, operators.id)
    [request], [submit], [commit], [expand] = (
        named(spans, name) for name in ("POST /commands", "submit", "commit", "expand")
    )
    assert (request.parent, submit.parent, commit.parent) == (operators.span, request.id, submit.id)
    assert (expand.parent, request.kind, submit.kind) == (commit.id, SERVER_KIND, PRODUCER)
    assert request.attributes["http.response.status_code"] == "201"
    assert expand.attributes["messaging.message.conversation_id"] == request_id
    for name in ("claim", "poll answer", "report"):
        found = named(spans, name)
        assert {span.parent for span in found} == {submit.id}
        assert {span.attributes["messaging.message.conversation_id"] for span in found} == {request_id}
        assert {span.process.split("/")[0] for span in found} == {"comms-api one", "comms-api two"}
    for name in ("poll answer", "report"):
        found = named(spans, name)
        assert {span.attributes["messaging.message.id"] for span in found} == order_ids
        assert {span.attributes["comms_api.agent_id"] for span in found} == set(map(str, ids))
    for trace in reports:
        [request] = named(collector.wait_for(lambda found: len(found) > 1, trace.id), "POST /commands/results")
        assert [(trace.id, request.id)] in [span.links for span in named(spans, "report")]


def test_a_command_that_answers_a_held_poll_at_once_starts_its_trace_on_the_server(
    nodes: Sequence[Server], management: httpx.Client, collector: Collector
) -> None:
    agent_id = nodes[0].enroll(management, f"held-{secrets.token_hex(4)}")
    agent = nodes[0].log_in(agent_id)

    def is_claimed_by_its_submission() -> bool:
        """Submit a command to the held poll; a claim may be in progress, and then the submission makes none."""
        with ThreadPoolExecutor(1) as threads:
            answering = threads.submit(answer_once, agent, {})
            wait_until(lambda: management.get(f"/agents/{agent_id}/diagnosis").json()["poll"] == "held")
            request_id = management.post("/commands", json=command(agent_id)).json()["commands"][0]["request_id"]
            answering.result(PATIENCE)
        [report] = reports_of(request_id, collector.wait_for(partial(reports_of, request_id)))
        names = {"POST /commands", "submit", "commit", "expand", "claim", "poll answer", "report"}
        spans = collector.wait_for(lambda found: {span.name for span in found} == names, report.trace)
        [request], [expand], [claim] = (named(spans, name) for name in ("POST /commands", "expand", "claim"))
        assert request.parent == ""
        return claim.parent == expand.id

    wait_until(is_claimed_by_its_submission)


def reports_of(request_id: str, spans: Sequence[ReceivedSpan]) -> list[ReceivedSpan]:
    key = "messaging.message.conversation_id"
    return [span for span in spans if span.name == "report" and span.attributes.get(key) == request_id]


def test_the_log_lines_of_a_request_name_its_trace(nodes: Sequence[Server], management: httpx.Client) -> None:
    trace, log = Trace(), nodes[0].folder / "log"
    management.get("/agents", headers=trace.headers)
    wait_until(lambda: f'"trace":"{trace.id}"' in log.read_text(), says=log.read_text)


@pytest.mark.parametrize("path", ["/events/stateless", "/events/stateful"])
def test_the_trace_of_a_batch_continues_until_its_commit(
    path: str, nodes: Sequence[Server], management: httpx.Client, collector: Collector
) -> None:
    agent_id, trace = nodes[0].enroll(management, f"batch-{secrets.token_hex(4)}"), Trace()
    body = stateless(agent_id, {"a": 1}) if path.endswith("stateless") else stateful(agent_id, state("a"))
    agent = nodes[0].log_in(agent_id)
    assert agent.post(path, content=body, headers=trace.headers).is_success
    spans = collector.wait_for(lambda found: len(found) == 2, trace.id)
    [request], [commit] = named(spans, f"POST {path}"), named(spans, "commit")
    assert (request.parent, commit.parent, request.kind) == (trace.span, request.id, SERVER_KIND)
    assert request.attributes["comms_api.subject"] == str(agent_id)
    assert request.seconds >= commit.seconds > 0


def test_a_trace_that_its_client_does_not_record_has_no_spans(
    nodes: Sequence[Server], management: httpx.Client, collector: Collector, database_url: str
) -> None:
    agent_id, unrecorded, recorded = nodes[0].enroll(management, f"un-{secrets.token_hex(4)}"), Trace("00"), Trace()
    agent = nodes[0].log_in(agent_id)
    submitted = management.post("/commands", json=command(agent_id), headers=unrecorded.headers).json()["commands"][0]
    answer_once(agent, unrecorded.headers)
    agent.post("/events/stateless", content=stateless(agent_id, {}), headers=recorded.headers)
    collector.wait_for(len, recorded.id)
    query = f"SELECT traceparent FROM commands WHERE request_id = '{submitted['request_id']}'"
    assert querying(database_url)(query)[0][0] is None
    assert collector.of_trace(unrecorded.id) == []
    assert not [span for span in collector.spans if submitted["request_id"] in span.attributes.values()]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x" * 1024,
        f"00-{'g' * 32}-{'1' * 16}-01",
        f"00-{'A' * 32}-{'1' * 16}-01",
        f"00-{'0' * 32}-{'1' * 16}-01",
        f"00-{'1' * 32}-{'0' * 16}-01",
        f"00-{'1' * 32}-{'1' * 16}-01-{'a' * 900}",
        f"ff-{'1' * 32}-{'1' * 16}-01",
        f"00-{'1' * 32}-{'1' * 16}",
        f"00-{'1' * 32}-{'1' * 16}-01, 00-{'1' * 32}-{'1' * 16}-01",
    ],
)
def test_an_invalid_traceparent_is_ignored(value: str, management: httpx.Client, collector: Collector) -> None:
    name = f"hostile-{secrets.token_hex(4)}"
    assert management.post("/groups", json={"name": name}, headers={"traceparent": value}).status_code == 201
    management.get(f"/groups/{name}", headers={"traceparent": value})
    deleted = management.delete(f"/groups/{name}", headers=[("traceparent", Trace().headers["traceparent"])] * 2)
    assert deleted.is_success
    mark = Trace()
    management.get("/groups", headers=mark.headers)
    collector.wait_for(len, mark.id)
    assert collector.of_trace("1" * 32) == []
    assert {span.parent for span in named(collector.spans, "POST /groups")} == {""}
    assert not [span for span in collector.spans if span.name.startswith("GET /groups/")]


def test_spans_have_no_secret_and_no_content_of_clients(
    nodes: Sequence[Server], management: httpx.Client, collector: Collector
) -> None:
    canary = f"canary{secrets.token_hex(8)}"
    agent_id, mark = nodes[0].enroll(management, f"secret-{secrets.token_hex(4)}"), Trace()
    agent = nodes[0].log_in(agent_id)
    agent.post("/events/stateless", content=stateless(agent_id, {canary: canary}))
    agent.post("/events/stateful", content=stateful(agent_id, state(canary, data={canary: canary})))
    agent.post("/events/stateless", content=canary.encode())
    body = command(agent_id, action="restart") | {"action": {"name": "restart", "args": {canary: canary}}}
    assert management.post("/commands", json=body, headers={"x-canary": canary}).status_code == 201
    answer_once(agent, {})
    management.post("/users", json={"name": canary[:20], "password": canary, "role": "reader"}, params={"x": canary})
    management.post(f"/commands/{canary}/cancel")
    agent.post("/events/stateless", content=stateless(agent_id, {}), headers=mark.headers)
    collector.wait_for(len, mark.id)
    received = b"".join(collector.bodies)
    tokens = [client.headers["Authorization"].split()[1] for client in (agent, management)]
    for secret in (canary, KEY, PASSWORD, *tokens):
        assert secret.encode() not in received


def test_requests_without_a_valid_token_have_no_span(
    nodes: Sequence[Server], management: httpx.Client, collector: Collector
) -> None:
    stranger, trace, mark = nodes[0].client(nodes[0].agent_url, "x.y.z"), Trace(), Trace()
    assert stranger.post("/events/stateless", content=b"", headers=trace.headers).status_code == 401
    agent_id = nodes[0].enroll(management, f"guessed-{secrets.token_hex(4)}")
    for key in ("0" * 32, KEY):
        stranger.post("/login", json={"uuid": str(agent_id), "key": key}, headers=trace.headers)
    management.get("/agents", headers=mark.headers)
    collector.wait_for(len, mark.id)
    assert collector.of_trace(trace.id) == []


def test_requests_do_not_wait_for_a_collector_that_is_away(
    folder: Path, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    [port], begun_at = free_ports(1), time.monotonic()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "32")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
    with running_server(folder / "away", new_database(), traces=True) as server:
        agent_id = server.enroll(server.management(), "away")
        agent = server.log_in(agent_id)
        for number in range(100):
            assert agent.post("/events/stateless", content=stateless(agent_id, {"n": number})).status_code == 204
        log = server.folder / "log"
        wait_until(lambda: "traces: " in log.read_text(), says=log.read_text)
        assert server.stop() == 0
    assert log.read_text().count("traces: ") <= 1 + (time.monotonic() - begun_at) // COMPLAINT_SECONDS


def test_opentelemetry_is_neither_imported_nor_needed_without_the_setting(
    folder: Path, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "empty" / "opentelemetry").mkdir(parents=True)
    (folder / "empty" / "opentelemetry" / "__init__.py").write_text("raise ImportError('not installed')")
    monkeypatch.setenv("PYTHONPATH", str(folder / "empty"))
    database_url = new_database()
    with running_server(folder / "without", database_url) as server:
        management, trace = server.management(), Trace()
        agent_id = server.enroll(management, "plain")
        assert management.post("/commands", json=command(agent_id), headers=trace.headers).status_code == 201
        assert querying(database_url)("SELECT traceparent FROM commands")[0][0] is None
    with (
        pytest.raises(CommsError, match=r"traces: .*pip install 'comms-api\[otel\]'"),
        running_server(folder / "without", database_url, traces=True),
    ):
        pass
