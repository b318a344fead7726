"""Prometheus scrapes a server with the configuration of `deploy/`, and evaluates the alerts and the dashboard."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from support.balancers import DEPLOY, install
from support.batches import stateless
from support.ports import free_ports
from support.server import PASSWORD, Server
from support.waiting import PATIENCE, wait_until

RULES = DEPLOY / "prometheus/comms-api.rules.yml"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/comms-api.json").read_text())
TARGETS = [target for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
OPTIONAL = re.compile("comms_api_(jetstream|key_requests)_")
"""Metrics of parts that not every server has."""


@pytest.fixture(scope="module")
def prometheus(server: Server, management: httpx.Client, folder: Path) -> Iterator[httpx.Client]:
    """A client of a Prometheus that has scraped the server."""
    program = install("prometheus")
    server.user(management, "prometheus", "reader")
    agent_id = server.enroll(management, "scraped")
    server.log_in(agent_id).post("/events/stateless", content=stateless(agent_id, {})).raise_for_status()
    [port] = free_ports(1)
    configuration = folder / "prometheus"
    configuration.mkdir()
    shutil.copy(RULES, configuration)
    (configuration / "password").write_text(PASSWORD)
    (configuration / "prometheus.yml").write_text(_fitted(server, configuration))
    command = [
        program,
        f"--config.file={configuration}/prometheus.yml",
        f"--storage.tsdb.path={configuration}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (configuration / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=PATIENCE) as client:
                wait_until(lambda: _has_scraped(client, process), says=(configuration / "log").read_text)
                yield client
        finally:
            process.terminate()


def _fitted(server: Server, folder: Path) -> str:
    """Return the configuration of `deploy/` for this server, with a short interval."""
    text = (DEPLOY / "prometheus/prometheus.yml").read_text()
    replaced = {
        "15s": "1s",
        "/etc/prometheus/comms-api-ca.pem": str(server.folder / "certs/ca.pem"),
        "/etc/prometheus/comms-api.password": str(folder / "password"),
        '"node-1.example.org:55000", "node-2.example.org:55000"': f'"127.0.0.1:{server.management_port}"',
    }
    for old, new in replaced.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def _has_scraped(client: httpx.Client, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None
    try:
        is_ready = client.get("/query", params={"query": "up"}).status_code == 200
    except httpx.TransportError:
        return False
    return is_ready and [series["value"][1] for series in evaluate(client, 'up{job="comms-api"}')] == ["1"]


def evaluate(client: httpx.Client, expression: str) -> list[dict[str, Any]]:
    """Return the series of an expression; the dashboard's variables get values."""
    for variable, value in {"$__rate_interval": "1m", "$instance": ".*"}.items():
        expression = expression.replace(variable, value)
    answer = client.get("/query", params={"query": expression}).json()
    assert answer["status"] == "success", answer
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


def metrics_of(expression: str) -> set[str]:
    return set(re.findall(r"\b((?:comms_api|process)_\w+)", expression))


def test_prometheus_finds_every_metric_of_the_alerts_and_the_dashboard(prometheus: httpx.Client) -> None:
    alerts = [rule["expr"] for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]]
    used = set().union(*map(metrics_of, [*alerts, *(target["expr"] for target in TARGETS)]))
    names = set(prometheus.get("/label/__name__/values").json()["data"])
    assert len(used) > 30
    assert {name for name in used if not OPTIONAL.match(name)} <= names


def test_prometheus_evaluates_every_panel_and_every_alert(prometheus: httpx.Client) -> None:
    for target in TARGETS:
        evaluate(prometheus, target["expr"])
    assert evaluate(prometheus, "sum(comms_api_events_total)")[0]["value"][1] == "1"

    def rules() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = prometheus.get("/rules").json()["data"]["groups"][0]["rules"]
        return found

    wait_until(lambda: all(rule["health"] == "ok" for rule in rules()), says=rules)
    # On a busy machine, an alert may be pending for a moment.
    assert {rule["name"] for rule in rules() if rule["state"] == "firing"} == set()


def test_promtool_finds_no_fault_in_the_configuration_and_the_alerts_pass_their_tests() -> None:
    promtool = Path(install("prometheus")).with_name("promtool")
    for command in (["check", "rules", RULES.name], ["test", "rules", "comms-api.rules.test.yml"]):
        done = subprocess.run(
            [promtool, *command], cwd=RULES.parent, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_says_what_is_wrong_and_what_to_do_and_has_a_test() -> None:
    tested = (RULES.parent / "comms-api.rules.test.yml").read_text()
    for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]:
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert {"summary", "description"} == set(rule["annotations"])
        assert f'alertname="{rule["alert"]}"' in tested
