"""Run three database hosts on this machine with the files of deploy/patroni: Debian's etcd, Patroni, PostgreSQL."""

import json
import os
import re
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme

from comms_api.embedded_postgresql.home import is_root
from support.leftovers import VARIABLE
from support.ports import free_ports
from support.replication import kill_postgres
from support.waiting import wait_until

DEPLOY = Path(__file__).parents[2] / "deploy" / "patroni"
HOSTS = ("10.0.0.11", "10.0.0.12", "10.0.0.13")
PORTS = (2379, 2380, 5432, 8008)
PASSWORD = "change-me-1"
PROGRAMS = ("patroni", "etcd")


def postgres_programs() -> Path:
    """Return the folder of the newest PostgreSQL that is installed."""
    return max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))


@dataclass
class Host:
    """A database host: its services, and the local address of each address in the files."""

    name: str
    folder: Path
    local: Mapping[str, str]
    services: dict[str, subprocess.Popen[bytes]]

    def text(self, template: str) -> str:
        """Return a file of deploy/patroni for this host, with local addresses."""
        text = (DEPLOY / template).read_text().replace("10.0.0.0/24", "127.0.0.0/8")
        # The files are for the first host: replace its address, except in lines that list all hosts.
        address = HOSTS[int(self.name[-1]) - 1]
        lines = [line if line.count("10.0.0.") > 1 else line.replace(HOSTS[0], address) for line in text.splitlines()]
        text = "\n".join(lines).replace("NAME=db1", f"NAME={self.name}")
        return re.sub(r"10\.0\.0\.\d+:\d+", lambda found: self.local[found[0]], text)

    def environment(self, template: str) -> dict[str, str]:
        lines = [line for line in self.text(template).splitlines() if line and not line.startswith("#")]
        return dict(line.split("=", 1) for line in lines)

    def start(self) -> None:
        etcd = self.environment("etcd.env") | {"ETCD_DATA_DIR": str(self.folder / "etcd")}
        self._run("etcd", etcd)
        self.start_patroni()

    def start_patroni(self) -> None:
        text = self.text("patroni.yml").replace("/var/run/postgresql", ".").replace("/etc/patroni", "..")
        (self.folder / "config.yml").write_text(text)
        paths = {
            "PATRONI_POSTGRESQL_DATA_DIR": str(self.folder / "data"),
            "PATRONI_POSTGRESQL_BIN_DIR": str(postgres_programs()),
            "PATRONI_POSTGRESQL_PGPASS": str(self.folder / "pgpass"),
        }
        self._run("patroni", self.environment("node.env") | paths, self.folder / "config.yml")

    def _run(self, program: str, env: Mapping[str, str], *arguments: Path) -> None:
        path = shutil.which(program)
        assert path is not None, f"apt-get install {' '.join(PROGRAMS)}-server postgresql"
        fixed = {"PATH": os.defpath, "HOME": str(self.folder), "LC_ALL": "C.UTF-8", VARIABLE: os.environ[VARIABLE]}
        with (self.folder / f"{program}.log").open("ab") as log:
            self.services[program] = subprocess.Popen(
                [path, *arguments],
                cwd=self.folder,
                env={**fixed, **env},
                stdout=log,
                stderr=log,
                user="postgres" if is_root() else None,
                group="postgres" if is_root() else None,
                extra_groups=[] if is_root() else None,
            )

    def switch_over(self) -> None:
        """Switch to another leader, as an operator does before maintenance."""
        arguments = ["patronictl", "-c", self.folder / "config.yml", "switchover", "comms-api", "--force"]
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "LC_ALL": "C.UTF-8",
            **self.environment("node.env"),
        }
        done = subprocess.run(arguments, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    @property
    def address(self) -> str:
        return self.environment("node.env")["PATRONI_POSTGRESQL_CONNECT_ADDRESS"]

    def cluster(self) -> list[dict[str, Any]]:
        """Return the members of the cluster according to this host's Patroni."""
        address = self.environment("node.env")["PATRONI_RESTAPI_CONNECT_ADDRESS"]
        with urllib.request.urlopen(f"http://{address}/cluster", timeout=5) as answer:
            members: list[dict[str, Any]] = json.load(answer)["members"]
            return members

    def kill_postgres(self) -> None:
        kill_postgres(self.folder / "data")

    def kill(self, *programs: str) -> None:
        """Kill services, and PostgreSQL together with Patroni, as a power failure would."""
        for program in programs:
            if service := self.services.pop(program, None):
                service.send_signal(signal.SIGKILL)
                service.wait()
        if "patroni" in programs:
            self.kill_postgres()


def roles(hosts: list[Host]) -> dict[str, str]:
    """Return the role of each running member according to the first Patroni that answers."""
    for host in hosts:
        with suppress(OSError):
            return {member["name"]: member["role"] for member in host.cluster() if member["state"] != "stopped"}
    return {}


def make_folder(folder: Path, authority: trustme.CA) -> None:
    """Create a host's folder with its certificate, owned by the user that runs the services."""
    folder.mkdir(mode=0o700)
    certificate = authority.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(folder / "server.pem")
    certificate.private_key_pem.write_to_path(folder / "server.key")
    (folder / "server.key").chmod(0o600)
    for path in (folder, *folder.iterdir()):
        if is_root():
            shutil.chown(path, "postgres", "postgres")


@contextmanager
def patroni_hosts(home: Path) -> Iterator[list[Host]]:
    """Run three hosts for the block: a leader, a synchronous standby and a further replica."""
    home.mkdir(mode=0o755)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(home / "ca.pem")
    addresses = [f"{host}:{port}" for host in HOSTS for port in PORTS]
    ports = free_ports(len(addresses))
    local = {address: f"127.0.0.1:{port}" for address, port in zip(addresses, ports, strict=True)}
    hosts = [Host(f"db{number}", home / f"db{number}", local, {}) for number in (1, 2, 3)]
    with ExitStack() as stack:
        for host in hosts:
            make_folder(host.folder, authority)
            stack.callback(host.kill, *PROGRAMS)
            host.start()
        expected = ["leader", "replica", "sync_standby"]
        wait_until(lambda: sorted(roles(hosts).values()) == expected, says=lambda: roles(hosts))
        yield hosts
