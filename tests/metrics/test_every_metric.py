"""A server with every part shows every documented metric, and no other one; the stream's backlog is right."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.batches import stateless
from support.metrics import scrape, wait_for
from support.nats import NatsServer, nats_servers, stream_settings
from support.relays import relay
from support.server import Server, environment, running_server

DOCUMENT = (Path(__file__).parents[2] / "docs/operations/metrics.md").read_text()
STREAM_BYTES = 2**26


@pytest.fixture(scope="module")
def servers(scratch: Path) -> Iterator[Sequence[NatsServer]]:
    with nats_servers(scratch / "nats metrics", 1) as running:
        yield running


@pytest.fixture(scope="module")
def settings(servers: Sequence[NatsServer]) -> dict[str, Any]:
    return {**stream_settings(servers, STREAM_BYTES), "key_request_program": "/bin/false"}


@pytest.fixture(scope="module")
def server(folder: Path, database_url: str, settings: dict[str, Any]) -> Iterator[Server]:
    with running_server(folder, database_url, **settings) as running:
        yield running


def test_the_metrics_show_what_the_relays_of_a_stream_have_not_stored(
    server: Server, management: httpx.Client, folder: Path, database_url: str, settings: dict[str, Any]
) -> None:
    agent_id = server.enroll(management, "relayed")
    agent = server.log_in(agent_id)
    agent.post("/events/stateless", content=stateless(agent_id, {})).raise_for_status()
    relay(environment(folder, database_url, **settings), "postgresql")
    agent.post("/events/stateless", content=stateless(agent_id, {})).raise_for_status()
    agent.post("/events/stateless", content=stateless(agent_id, {})).raise_for_status()
    wait_for(
        management,
        {
            "comms_api_jetstream_up": 1,
            "comms_api_jetstream_publish_duration_seconds_count": 3,
            "comms_api_jetstream_failures_total": 0,
            "comms_api_jetstream_limit_bytes": STREAM_BYTES,
            'comms_api_jetstream_unread_messages{consumer="relay-postgresql"}': 2,
        },
    )


def test_every_metric_is_documented_and_every_documented_metric_exists(management: httpx.Client) -> None:
    names = set(re.findall(r"^# TYPE (\w+) ", scrape(management), re.MULTILINE))
    assert names == set(re.findall(r"^\| `((?:comms_api|process)_\w+)`", DOCUMENT, re.MULTILINE))
    assert all(
        name.endswith("_total") for name in re.findall(r"^# TYPE (\w+) counter", scrape(management), re.MULTILINE)
    )
