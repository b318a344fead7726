"""The command: start the fleet, play the scenes, and compare the numbers."""

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live

from comms_api.cli.demo.comparison import comparison_table, count_in_database, find_differences
from comms_api.cli.demo.fleet import running_fleet
from comms_api.cli.demo.scenes import play
from comms_api.cli.demo.view import LiveView
from comms_api.embedded_postgresql.cluster import embedded_postgres


@click.command()
@click.option("--keep", is_flag=True, help="Keep the folder with the data and the logs.")
def demo(*, keep: bool) -> None:
    """Run a demonstration of the server.

    It runs a server, three agents on this host, and commands, and then compares every count with the database.
    """
    console = Console()
    folder = Path(tempfile.mkdtemp(prefix="comms-api-demo-"))
    folder.chmod(0o755)  # the embedded PostgreSQL of root runs as another user
    try:
        agrees = _run(console, folder)
    finally:
        if keep:
            console.print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if agrees else 1)


def _run(console: Console, folder: Path) -> bool:
    console.print("[bold]comms-api demo[/]: starting a server with its own PostgreSQL …")
    with running_fleet(folder) as (server, agents), embedded_postgres(folder / "data") as cluster:
        view = LiveView(agents)
        with Live(view, console=console, refresh_per_second=4):
            play(view, server, agents)
        console.print()
        stored = asyncio.run(count_in_database(cluster.url))
        counted = {agent.name: agent.counts() for agent in agents}
        shown = server.get("/agents")["items"]
        codes = [agent.stop() for agent in agents] + [server.stop()]
    console.print(comparison_table(counted, stored))
    problems = [*find_differences(counted, stored)]
    problems += [f"agent {agent['name']} is {agent['status']}" for agent in shown if agent["status"] != "active"]
    problems += [f"a process ended with exit code {code}" for code in codes if code != 0]
    for problem in problems:
        console.print(f"[red]{problem}[/]")
    if not problems:
        console.print("[green]every number agrees with the database; every process ended with exit code 0[/]")
    return not problems
