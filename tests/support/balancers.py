"""Run HAProxy and nginx with the configurations of `deploy/`, on free ports of this machine."""

import fcntl
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from support.ports import free_ports
from support.server import Server
from support.waiting import PATIENCE, wait_until

DEPLOY = Path(__file__).parents[2] / "deploy"
CONFIGURATIONS = ("haproxy/pass-through", "haproxy/termination", "nginx/pass-through", "nginx/termination")
PACKAGES = {
    "haproxy": ("haproxy",),
    "prometheus": ("prometheus",),
    "nginx": ("nginx", "libnginx-mod-stream"),
    "rpmbuild": ("rpm",),
    "pgbouncer": ("pgbouncer",),
    "curl": ("curl",),
    "jq": ("jq",),
    "mariadbd": ("mariadb-server", "python3-pymysql"),
    "php": ("php-cli", "php-mysql"),
    "chromium": ("chromium", "fonts-dejavu-core"),
}
MODULES = {
    "nginx": Path("/usr/lib/nginx/modules/ngx_stream_module.so"),
    "mariadbd": Path("/usr/lib/python3/dist-packages/pymysql"),
}
"""The other parts of the packages of a program."""

TRUSTED_ADDRESS = "127.0.0.2"
"""The source address of a balancer that terminates TLS."""

PROXYING_ADDRESS = "127.0.0.3"
"""The source address of a balancer that passes TLS through and sends PROXY headers."""

BEHIND_BALANCERS = {"trusted_proxies": f"{TRUSTED_ADDRESS}/32", "proxy_protocol_from": f"{PROXYING_ADDRESS}/32"}
"""The settings of nodes that trust these balancers."""


@dataclass
class Balancer:
    """A running balancer; its URLs work like a node's URLs."""

    name: str
    process: subprocess.Popen[bytes]
    agent_url: str
    management_url: str

    @property
    def agent_port(self) -> int:
        return int(self.agent_url.rpartition(":")[2])

    @property
    def management_port(self) -> int:
        return int(self.management_url.rpartition(":")[2])

    def connections_to(self, node: Server) -> int:
        """Return the number of connections to the agent API of a node."""
        master = psutil.Process(self.process.pid)
        found = [
            connection for process in (master, *master.children()) for connection in process.net_connections("tcp")
        ]
        to_node = [connection for connection in found if connection.raddr and connection.raddr.port == node.agent_port]
        return len({connection.laddr for connection in to_node if connection.status == psutil.CONN_ESTABLISHED})


def configuration(name: str) -> str:
    program = name.partition("/")[0]
    return (DEPLOY / f"{name}.{'cfg' if program == 'haproxy' else 'conf'}").read_text()


def install(program: str, *, runs_as_root: bool = True) -> str:
    """Return the path of a program; install it if needed, or skip the test if that is impossible."""
    packages = PACKAGES[program]
    apt = shutil.which("apt-get")
    if os.geteuid() == 0 and apt:
        with (Path(tempfile.gettempdir()) / "comms-api-tests-apt.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # other test processes may install it, too
            if not _is_installed(program):
                _install(apt, packages)
    if not _is_installed(program):
        pytest.skip(f"{program} is not installed: apt-get install {' '.join(packages)}")
    if runs_as_root and os.geteuid() != 0:
        pytest.skip(f"{program} must be started by root, because it runs as another user")
    return str(shutil.which(program, path=_path()))


def _install(apt: str, packages: Sequence[str]) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
        subprocess.run([apt, "-qq", *command], env=environment, capture_output=True, timeout=5 * PATIENCE, check=False)


def _is_installed(program: str) -> bool:
    has_modules = program not in MODULES or MODULES[program].exists()
    return has_modules and shutil.which(program, path=_path()) is not None


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin"


@contextmanager
def running_balancer(
    name: str, folder: Path, nodes: Sequence[Server], changes: Mapping[str, str] | None = None
) -> Iterator[Balancer]:
    """Run a balancer in front of up to three nodes that share a certificate."""
    program = install(name.partition("/")[0])
    folder.mkdir(parents=True, exist_ok=True)
    agent, management = free_ports(2)
    text = _fitted(configuration(name), folder, nodes, {"27000": agent, "55000": management})
    for old, new in (changes or {}).items():
        assert old in text, old
        text = text.replace(old, new)
    file = folder / f"{name.replace('/', '-')}.conf"
    file.write_text(text)
    command = _command(program, file)
    check = [*command, "-t" if program.endswith("nginx") else "-c"]
    checked = subprocess.run(check, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=PATIENCE)
    assert checked.returncode == 0, checked.stdout.decode()
    with (folder / f"{file.stem}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _await_port(process, agent, Path(log.name))
        yield Balancer(name, process, f"https://127.0.0.1:{agent}", f"https://127.0.0.1:{management}")
    finally:
        process.terminate()
        try:
            process.wait(timeout=PATIENCE)
        finally:
            process.kill()


def _command(program: str, file: Path) -> list[str]:
    if program.endswith("haproxy"):
        return [program, "-W", "-f", str(file)]
    folder = file.parent
    return [program, "-c", str(file), "-e", "stderr", "-g", f"daemon off; pid '{folder}/nginx.pid';"]


def _fitted(text: str, folder: Path, nodes: Sequence[Server], ports: Mapping[str, int]) -> str:
    """Return a configuration with the nodes, ports and certificates of a test."""
    for number in (1, 2, 3):
        if number > len(nodes):
            text = re.sub(rf"^ *server .*\bnode{number}:.*\n", "", text, flags=re.MULTILINE)
            continue
        node = nodes[number - 1]
        agent, management = f"127.0.0.1:{node.agent_port}", f"127.0.0.1:{node.management_port}"
        health = f" check port {management.rpartition(':')[2]}"
        text = text.replace(f"node{number}:27000 check port 55000", agent + health)
        text = text.replace(f"node{number}:27000", agent).replace(f"node{number}:55000", management)
    text = text.replace("default-server ssl", f"default-server source {TRUSTED_ADDRESS} ssl")
    text = text.replace("default-server send-proxy-v2", f"default-server source {PROXYING_ADDRESS} send-proxy-v2")
    text = text.replace("proxy_protocol on;", f"proxy_protocol on; proxy_bind {PROXYING_ADDRESS};")
    text = text.replace("proxy_http_version 1.1;", f"proxy_http_version 1.1; proxy_bind {TRUSTED_ADDRESS};")
    for standard, port in ports.items():
        text = re.sub(rf"(bind \*:|listen ){standard}\b", rf"\g<1>{port}", text)
    certs = folder / "balancer-certs"
    certs.mkdir(exist_ok=True)
    chain, key, authority = (nodes[0].folder / "certs" / name for name in ("server.pem", "server.key", "ca.pem"))
    (certs / "comms.pem").write_bytes(chain.read_bytes() + key.read_bytes())
    (certs / "comms.key").write_bytes(key.read_bytes())
    (certs / "ca.pem").write_bytes(authority.read_bytes())
    text = re.sub(r"/etc/(?:haproxy|nginx|comms-api/tls)/(\w+\.(?:pem|key))\b", rf'"{certs}/\1"', text)
    return text.replace("comms.example.org", "localhost")


def _await_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    def listens() -> bool:
        assert process.poll() is None, log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(listens, says=log.read_text)
