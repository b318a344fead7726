"""The files of `deploy/` match the program and each other, as far as tests can check this without running them."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.nats import PROGRAM as NATS_SERVER
from support.server import Server
from support.waiting import PATIENCE

from comms_api.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CONTAINER = (DEPLOY / "Containerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
NODES = ("node1", "node2", "node3")
SERVICE = (DEPLOY / "systemd" / "comms-api.service").read_text()
UNITS = sorted((DEPLOY / "systemd").iterdir())
PORTS = {Settings().agent_bind.rpartition(":")[2], Settings().management_bind.rpartition(":")[2]}

KEYS_OF_SERVICES = {
    *("image", "build", "command", "environment", "secrets", "volumes", "networks", "ports", "depends_on", "profiles"),
    *("restart", "init", "cap_drop", "security_opt", "read_only", "tmpfs", "stop_grace_period", "ulimits"),
    *("healthcheck", "shm_size"),
}
"""The keys of the Compose specification that we use; a misspelled key is not among them."""

EXPOSURE_MAXIMUM = 2.0
"""The maximum score, out of ten, in `systemd-analyze security`, which calls a unit with up to 2 OK."""


@pytest.mark.parametrize("path", [path for path in DEPLOY.rglob("*") if path.is_file()], ids=lambda path: path.name)
def test_every_setting_named_in_a_file_of_deploy_exists(path: Path) -> None:
    names = set(re.findall(rf"\b{PREFIX}([A-Z_]+)", path.read_text())) - {"CONFIG"}
    assert {name.lower() for name in names} <= set(Settings.__struct_fields__)


def instructions(name: str) -> list[str]:
    """Return the arguments of an instruction of the last stage, or of both for COPY."""
    text = CONTAINER.replace("\\\n", " ")
    if name != "COPY":
        text = text.rpartition("\nFROM ")[2]
    return re.findall(rf"^{name} +(.+)$", text, re.MULTILINE)


def test_the_container_runs_without_privileges_with_a_health_check_and_pinned_requirements() -> None:
    assert re.findall(r"^FROM (\S+)", CONTAINER, re.MULTILINE) == ["python:3.11-slim-bookworm"] * 2
    [user] = instructions("USER")
    assert int(user) > 1000
    assert set(instructions("EXPOSE")[0].split()) == PORTS
    assert "healthcheck.py" in instructions("HEALTHCHECK")[0]
    installs = re.findall(r"pip install [^&\n]*", CONTAINER)
    assert installs
    assert all("--require-hashes" in install or "--no-deps" in install for install in installs)


def test_the_package_builds_from_the_files_that_the_container_copies(tmp_path: Path) -> None:
    for copied in instructions("COPY"):
        *sources, target = copied.split()
        if sources[0].startswith("--from"):
            continue
        for source in sources:
            assert (ROOT / source).exists(), source
            if "requirements" not in source and "deploy" not in source:
                _copy(ROOT / source, tmp_path / (target if target != "./" else source))
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    subprocess.run([*wheel, "--wheel-dir", tmp_path / "wheels", tmp_path], check=True, timeout=PATIENCE)
    [built] = (tmp_path / "wheels").iterdir()
    names = zipfile.ZipFile(built).namelist()
    assert {"comms_api/cli/main.py", "comms_api/migrations/env.py"} <= set(names)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def test_the_health_check_distinguishes_a_live_node_from_a_dead_one(server: Server) -> None:
    program = [sys.executable, DEPLOY / "healthcheck.py"]
    for port, code in ((server.management_port, 0), (server.agent_port, 0), (1, 1)):
        assert subprocess.run([*program, str(port)], check=False, timeout=PATIENCE).returncode == code


def test_compose_has_only_keys_that_exist_and_names_that_are_declared() -> None:
    assert set(COMPOSE) - {key for key in COMPOSE if key.startswith("x-")} == {
        *("name", "services", "networks", "volumes", "secrets")
    }
    for name, service in SERVICES.items():
        assert set(service) <= KEYS_OF_SERVICES, name
        assert set(service["networks"]) <= set(COMPOSE["networks"])
        assert set(service.get("depends_on", ())) <= set(SERVICES)
        assert secrets_of(service) <= set(COMPOSE["secrets"])
    named = {volume.partition(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ())}
    assert {volume for volume in named if not volume.startswith(".")} == set(COMPOSE["volumes"])
    assert set(COMPOSE["secrets"]) == {secret for service in SERVICES.values() for secret in secrets_of(service)}


def secrets_of(service: dict[str, Any]) -> set[str]:
    return {secret if isinstance(secret, str) else secret["source"] for secret in service.get("secrets", ())}


def test_only_the_balancer_can_be_reached_from_outside() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"balancer": [f"{port}:{port}" for port in sorted(PORTS)]}
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    assert [name for name, service in SERVICES.items() if "outside" in service["networks"]] == ["balancer"]


def test_nodes_differ_only_in_name_have_a_read_only_root_and_get_secrets_as_files() -> None:
    for name in NODES:
        service = SERVICES[name]
        environment = dict(service["environment"])
        assert environment.pop("COMMS_API_NODE_NAME") == name
        assert environment == {k: v for k, v in SERVICES["node1"]["environment"].items() if k != "COMMS_API_NODE_NAME"}
        files = {value.removeprefix("/run/secrets/") for value in environment.values()}
        assert files == secrets_of(service)
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert not [name for name, service in SERVICES.items() if "PASSWORD=" in str(service.get("command"))]


def test_the_balancer_of_compose_knows_its_nodes_and_reads_the_delivered_file() -> None:
    [volume] = SERVICES["balancer"]["volumes"]
    text = (DEPLOY / volume.partition(":")[0]).read_text()
    assert set(re.findall(r"server \w+ (\w+):", text)) == set(NODES)
    assert set(re.findall(r"bind \*:(\d+)", text)) == PORTS
    [authority] = SERVICES["balancer"]["secrets"]
    assert f"ca-file {authority['target']}" in text


def test_three_nats_servers_know_each_other_and_start_only_when_asked_for() -> None:
    servers = {name: service for name, service in SERVICES.items() if name.startswith("nats")}
    assert set(servers) == {"nats1", "nats2", "nats3"}
    for name, service in servers.items():
        assert service["profiles"] == ["jetstream"]
        assert service["command"][0] == f"--name={name}"
        [routes] = [word for word in service["command"] if word.startswith("--routes=")]
        assert set(re.findall(r"nats://(\w+):6222", routes)) == set(servers)
        data, configuration = service["volumes"]
        assert data == f"{name}:/data"
        assert f"--config={configuration.split(':')[1]}" in service["command"]
        assert all(name not in SERVICES[node]["depends_on"] for node in NODES)


SYNC = re.compile(r"\bsync_interval: *(\S+)")


def test_every_nats_server_that_we_ship_or_recommend_syncs_before_it_acknowledges(tmp_path: Path) -> None:
    """`nats-server -t` refuses a configuration that it cannot read."""
    page = (DEPLOY.parent / "docs" / "operations" / "jetstream.md").read_text()
    [shown] = re.findall(r"```\n(# nats-1\.conf.*?)```", page, re.DOTALL)
    delivered = (DEPLOY / "nats" / "jetstream.conf").read_text()
    for number, text in enumerate((shown, delivered)):
        assert SYNC.findall(text) == ["always"]
        file = tmp_path / f"{number}.conf"
        readable = re.sub(r"^ *tls \{.*\}$", "", text, flags=re.MULTILINE)  # the certificates are not here
        file.write_text(readable.replace("$NATS_PASSWORD", "x"))
        checked = subprocess.run([NATS_SERVER, "-t", "-c", file], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr


def systemd_analyze() -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    return program


def test_the_units_are_well_formed(tmp_path: Path) -> None:
    program = systemd_analyze()
    (tmp_path / "comms-api").touch(mode=0o755)
    for unit in UNITS:
        text = unit.read_text().replace("/opt/comms-api/bin/comms-api", str(tmp_path / "comms-api"))
        (tmp_path / unit.name).write_text(text)
    units = [str(tmp_path / unit.name) for unit in UNITS]
    done = subprocess.run(
        [program, "verify", "--man=no", *units], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    complaints = [line for line in done.stderr.splitlines() if str(tmp_path) in line or "comms-api" in line]
    assert complaints == []


def test_the_exposure_of_the_service_is_low() -> None:
    program = [
        systemd_analyze(),
        "security",
        "--offline=yes",
        "--no-pager",
        str(DEPLOY / "systemd" / "comms-api.service"),
    ]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=PATIENCE)
    if "unrecognized option" in done.stderr:
        pytest.skip("systemd-analyze is too old to read a file")
    [exposure] = re.findall(r"exposure level for comms-api\.service: ([\d.]+)", done.stdout)
    assert float(exposure) <= EXPOSURE_MAXIMUM, done.stdout


def test_the_sockets_have_the_ports_of_the_settings_and_the_names_that_a_node_knows() -> None:
    sockets = {}
    for unit in UNITS:
        if unit.suffix == ".socket":
            text = unit.read_text()
            [[name]] = [re.findall(r"^FileDescriptorName=(.+)$", text, re.MULTILINE)]
            sockets[name] = re.findall(r"^ListenStream=(.+)$", text, re.MULTILINE)
            assert "Service=comms-api.service" in text.splitlines()
    settings = Settings()
    assert sockets == {
        "agent": [settings.agent_bind.rpartition(":")[2]],
        "management": [settings.management_bind.rpartition(":")[2]],
    }


def test_the_service_runs_without_its_sockets_and_is_restarted_without_limit() -> None:
    assert "Sockets=" not in SERVICE  # this would start the sockets with the service
    of_unit = SERVICE.partition("[Service]")[0].splitlines()
    assert "StartLimitIntervalSec=0" in of_unit
    assert "Restart=always" in SERVICE.splitlines()


def test_a_crash_of_the_service_writes_no_secrets_to_a_core_file() -> None:
    assert "LimitCORE=0" in SERVICE.splitlines()


def test_podman_builds_in_the_format_that_has_health_checks() -> None:
    files = [path for folder in (DEPLOY, ROOT / "docs") for path in folder.rglob("*") if path.is_file()]
    texts = [path.read_text(errors="replace") for path in files]  # some files are pictures
    builds = [line for text in texts for line in text.splitlines() if "podman build" in line]
    assert builds
    assert all("--format docker" in build for build in builds)


def test_a_stop_leaves_time_to_drain() -> None:
    [stop] = re.findall(r"^TimeoutStopSec=(\d+)s$", SERVICE, re.MULTILINE)
    assert int(stop) > Settings().drain_seconds + 10
    assert all(int(SERVICES[node]["stop_grace_period"][:-1]) > Settings().drain_seconds + 10 for node in NODES)
