"""`make load`: load a server that has its own PostgreSQL with a simulated fleet, and compare with the database."""

import asyncio
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
from load.comparison import Line, compare
from rich.console import Console
from rich.table import Table
from support.server import Server, running_server

from comms_api.embedded_postgresql.cluster import embedded_postgres

GROUP = "load"
BUILD = Path("build")
RAMP_SECONDS = 5
STOP_SECONDS = 20
SAMPLE_SECONDS = 1.0
MEGABYTE = 2**20


@dataclass(frozen=True)
class Plan:
    """The size of the fleet, its lifetime, and its shape."""

    locust: str
    agents: int
    seconds: int
    shape: str


@click.command()
@click.option("--locust", default="locust", help="The program locust, which has a separate environment.")
@click.option("--agents", default=100, type=click.IntRange(1), show_default=True)
@click.option("--seconds", default=75, type=click.IntRange(10), show_default=True)
@click.option("--shape", default="steady", type=click.Choice(["steady", "storm", "soak"]), show_default=True)
def main(locust: str, agents: int, seconds: int, shape: str) -> None:
    """Start a server and load it; the exit code is 1 if a request failed or acknowledged data is missing."""
    console, plan = Console(), Plan(locust, agents, seconds, shape)
    BUILD.mkdir(exist_ok=True)
    with _temporary_folder() as folder, embedded_postgres(folder / "data", durable=True) as cluster:
        with running_server(folder, cluster.url) as server, _memory_of(server) as samples:
            code = _run_locust(plan, server)
        lines = asyncio.run(compare(cluster.url, json.loads((folder / "tally.json").read_text())))
    _show(console, lines, samples)
    console.print(f"report: {BUILD / 'load.html'}; figures: {BUILD / 'load_stats.csv'} and its neighbours")
    is_right = code == 0 and all(line.holds for line in lines)
    console.print("[green]all acknowledged data is in the database[/]" if is_right else "[red]failed[/]")
    sys.exit(0 if is_right else 1)


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="comms-api-load-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # the embedded PostgreSQL of root runs as another user
        yield folder


def _run_locust(plan: Plan, server: Server) -> int:
    """Create a group and a token, and run the fleet; its summary goes to standard output."""
    (server.folder / "enrollment-token").write_text(_prepare(server))
    options = {
        "locustfile": Path(__file__).with_name("locustfile.py"),
        "host": server.agent_url,
        "management-url": server.management_url,
        "ca": server.folder / "certs" / "ca.pem",
        "password-file": server.folder / "password",
        "enrollment-token-file": server.folder / "enrollment-token",
        "group": GROUP,
        "shape": plan.shape,
        "users": plan.agents,
        "spawn-rate": max(1, plan.agents // RAMP_SECONDS),
        "run-time": plan.seconds,
        "batch-seconds": 2,
        "command-seconds": 4,
        "poll-seconds": 4,
        "stop-timeout": STOP_SECONDS,
        "tally": server.folder / "tally.json",
        "html": BUILD / "load.html",
        "csv": BUILD / "load",
        "loglevel": "WARNING",
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    return subprocess.run([plan.locust, "--headless", "--only-summary", *arguments], check=False).returncode


def _prepare(server: Server) -> str:
    """Create the group, and return a token to enroll in it."""
    management = server.management()
    management.post("/groups", json={"name": GROUP}).raise_for_status()
    answer = management.post("/enrollment-tokens", json={"groups": [GROUP], "expires_in": 86_400})
    return str(answer.raise_for_status().json()["token"])


@contextmanager
def _memory_of(server: Server) -> Iterator[list[int]]:
    """Sample the server's resident memory during the block."""
    samples, has_ended = [server.resident_bytes()], threading.Event()

    def sample() -> None:
        while not has_ended.wait(SAMPLE_SECONDS):
            samples.append(server.resident_bytes())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield samples
    finally:
        has_ended.set()
        sampler.join()


def _show(console: Console, lines: list[Line], samples: list[int]) -> None:
    table = Table("", "acknowledged", "in the database", "")
    for line in lines:
        mark = "[green]✓[/]" if line.holds else "[red]✗[/]"
        table.add_row(line.name, line.acknowledged(), f"{line.stored:,}", mark)
    console.print(table)
    third, middle, last = samples[len(samples) // 3], samples[len(samples) // 2], samples[-1]
    megabytes = " → ".join(f"{sample / MEGABYTE:.0f}" for sample in (samples[0], third, middle, last))
    console.print(f"server memory at the start, 1/3, 1/2 and the end: {megabytes} MB")


if __name__ == "__main__":
    main()
