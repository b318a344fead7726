"""`comms-api demo`: the main job on this host, live, and a reckoning with the database at the end."""

import asyncio
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from comms_api.cli.demo_fleet import GROUP, Counted, FleetAgent, Server, count_in_database, fleet, wait_for
from comms_api.database.embedded import embedded_postgres

AGENTS = 3
SETTLED_SECONDS = 1.0


class _Story:
    """What has happened so far, as the live view shows it."""

    def __init__(self, agents: list[FleetAgent]) -> None:
        self._agents = agents
        self._lines: list[str] = []

    def tell(self, line: str) -> None:
        """Add a line."""
        self._lines.append(line)

    def __rich__(self) -> RenderableType:
        """Draw the lines and each agent's own counters."""
        table = Table("agent", "logins", "events sent", "states sent", "orders executed", "results reported")
        for agent in self._agents:
            told = agent.statistics()
            counts = (told.logins, told.events_sent, told.states_sent, told.orders_executed, told.results_reported)
            table.add_row(agent.name, *map(str, counts))
        return Group(*(Text.from_markup(line) for line in self._lines), table)


@click.command()
@click.option("--keep", is_flag=True, help="Keep the folder with the data and the logs.")
def demo(*, keep: bool) -> None:
    """Show a server, three agents on this host's logs and inventory, and commands; then check every number."""
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
    console.print("[bold]comms-api demo[/]: starting a server with a PostgreSQL of its own …")
    with fleet(folder, AGENTS) as (server, agents), embedded_postgres(folder / "data") as cluster:
        story = _Story(agents)
        with Live(story, console=console, refresh_per_second=4):
            _play(story, server, agents)
            wait_for(_unmoved(agents), "agents at rest")
        console.print()
        stored = asyncio.run(count_in_database(cluster.url))
        told = {agent.name: agent.counted() for agent in agents}
        shown = server.get("/agents")["items"]
        codes = [agent.stop() for agent in agents] + [server.stop()]
    console.print(_reckoning(told, stored))
    problems = _disagreements(told, stored) + _missing(shown, codes)
    for problem in problems:
        console.print(f"[red]{problem}[/]")
    if not problems:
        console.print("[green]every number agrees with the database; every process ended with exit code 0[/]")
    return not problems


def _play(story: _Story, server: Server, agents: list[FleetAgent]) -> None:
    story.tell(f"server listens: agent API {server.agent_url}, management API {server.management_url}")
    story.tell(f"{AGENTS} agents enroll in the group [bold]{GROUP}[/], log in and send what they find on this host")
    wait_for(lambda: all(agent.is_settled() for agent in agents), "every event and state answered")
    story.tell("every event and every state is acknowledged; all agents hold a poll")
    _command(story, server, "ping", GROUP, "group", AGENTS)
    first = server.get(f"/agents?name={agents[0].name}")["items"][0]["id"]
    _command(story, server, "refresh-inventory", first, "agent", 1)
    wait_for(lambda: all(agent.is_settled() for agent in agents), "the new inventory answered")


def _command(  # noqa: PLR0913 - a command is that wide
    story: _Story, server: Server, action: str, target: str, kind: str, orders: int
) -> None:
    request_id = server.submit(action, target, kind)
    story.tell(f"command [bold]{action}[/] to {kind} {target}: {orders} order(s)")
    url = f"/commands/{request_id}"
    wait_for(lambda: server.get(url)["orders"].get("success", 0) == orders, f"{orders} results of {action}")
    story.tell(f"command [bold]{action}[/]: {orders} of {orders} answered with success")


def _unmoved(agents: list[FleetAgent]) -> Callable[[], bool]:
    """Return whether two looks, a second apart, saw the same."""

    def look() -> bool:
        before = [agent.counted() for agent in agents]
        threading.Event().wait(SETTLED_SECONDS)
        return before == [agent.counted() for agent in agents] and all(agent.is_settled() for agent in agents)

    return look


def _reckoning(told: Mapping[str, Counted], stored: Mapping[str, Counted]) -> Table:
    table = Table("agent", title="as the agents tell it = as the database has it")
    for column in ("events sent = stored", "states kept = stored", "orders got = made", "results = successes"):
        table.add_column(column, justify="right")
    for name, mine in told.items():
        theirs = stored.get(name, Counted(0, 0, 0, 0))
        pairs = (
            (mine.events, theirs.events),
            (mine.states, theirs.states),
            (mine.orders, theirs.orders),
            (mine.results, theirs.results),
        )
        table.add_row(name, *(f"{a} = {b}" if a == b else f"[red]{a} ≠ {b}[/]" for a, b in pairs))
    return table


def _disagreements(told: Mapping[str, Counted], stored: Mapping[str, Counted]) -> list[str]:
    if told.keys() != stored.keys():
        return [f"agents: {sorted(told)} here, {sorted(stored)} in the database"]
    different = [
        f"{name}: {told[name]} here, {stored[name]} in the database" for name in told if told[name] != stored[name]
    ]
    idle = [f"{name}: nothing happened" for name, mine in told.items() if not (mine.events and mine.states)]
    return different + idle


def _missing(shown: list[dict[str, object]], codes: list[int]) -> list[str]:
    faults = [f"agent {agent['name']} is {agent['status']}" for agent in shown if agent["status"] != "active"]
    return faults + [f"a process ended with exit code {code}" for code in codes if code != 0]
