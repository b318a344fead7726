"""`comms-api demo`: the main job on this host, live, and a reckoning with the database at the end."""

import asyncio
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from comms_api.cli.demo_fleet import GROUP, WAYS, Counted, FleetAgent, Server, count_in_database, fleet, wait_for
from comms_api.embedded_postgresql.cluster import embedded_postgres

AGENTS = len(WAYS)
ENDED = ("success", "failure", "cancelled")
STATUSES = ("pending", *ENDED)
BAR_WIDTH = 10
SETTLED_SECONDS = 1.0


class _Story:
    """What has happened so far, as the live view shows it."""

    def __init__(self, agents: list[FleetAgent]) -> None:
        self._agents = agents
        self._lines: list[str] = []
        self._commands: dict[str, Mapping[str, int]] = {}

    def tell(self, line: str) -> None:
        """Add a line."""
        self._lines.append(line)

    def show(self, label: str, orders: Mapping[str, int]) -> None:
        """Show how far a command is, under its label."""
        self._commands[label] = orders

    def __rich__(self) -> RenderableType:
        """Draw the lines, each command's progress, and each agent's own counters."""
        table = Table("agent", "by", "logins", "events sent", "states sent", "orders executed", "results reported")
        for agent in self._agents:
            told = agent.statistics()
            counts = (told.logins, told.events_sent, told.states_sent, told.orders_executed, told.results_reported)
            table.add_row(agent.name, agent.way, *map(str, counts))
        progress = Table(Column("command", no_wrap=True), "", *STATUSES)
        for label, orders in self._commands.items():
            ended = sum(orders[status] for status in ENDED)
            bar = ProgressBar(total=orders["total"], completed=ended, width=BAR_WIDTH)
            progress.add_row(label, bar, *(str(orders[status] or "") for status in STATUSES))
        lines = [Text.from_markup(line) for line in self._lines]
        return Group(*lines, *([progress] if self._commands else []), table)


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
    with fleet(folder) as (server, agents), embedded_postgres(folder / "data") as cluster:
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
    story.tell(f"{AGENTS} agents make themselves known by {', '.join(WAYS)}, log in and send what they find here")
    wait_for(lambda: len(server.get("/agents")["items"]) == AGENTS, "every agent known")
    external = server.get(f"/agents?name={agents[-1].name}")["items"][0]["id"]
    server.client.put(f"/groups/{GROUP}/agents/{external}").raise_for_status()
    server.client.put(f"/groups/{GROUP}/files/{GROUP}.yml", content="demo: true").raise_for_status()
    wait_for(lambda: len(server.get("/agents?in_sync=true")["items"]) == AGENTS, "the group's file on every agent")
    story.tell(f"a file put into the group [bold]{GROUP}[/] has reached every agent, which says so by its hash")
    wait_for(lambda: all(agent.is_settled() for agent in agents), "every event and state answered")
    story.tell("every event and every state is acknowledged; all agents hold a poll")
    one_at_a_time = {"rollout": {"max_in_flight": 1}}
    _command(story, server, _Wanted("ping", GROUP, "group", one_at_a_time), {"success": AGENTS})
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    cancelled = _Wanted("restart", GROUP, "group", {"start_at": tomorrow}, cancels=True)
    _command(story, server, cancelled, {"cancelled": AGENTS})
    first = server.get(f"/agents?name={agents[0].name}")["items"][0]["id"]
    _command(story, server, _Wanted("refresh-inventory", first, "agent"), {"success": 1})
    wait_for(lambda: all(agent.is_settled() for agent in agents), "the new inventory answered")


class _Wanted(msgspec.Struct, frozen=True):
    action: str
    target: str
    kind: str
    more: Mapping[str, object] = {}
    cancels: bool = False

    @property
    def label(self) -> str:
        name = self.target if self.kind == "group" else "one agent"
        return f"{self.action}, {name}"


def _command(story: _Story, server: Server, wanted: _Wanted, expected: Mapping[str, int]) -> None:
    """Submit a command and show how it goes, until its orders have ended as expected."""
    request_id = server.submit(wanted.action, wanted.target, wanted.kind, wanted.more)
    url = f"/commands/{request_id}"
    story.show(wanted.label, server.get(url)["orders"])
    if wanted.cancels:
        server.post(f"{url}/cancel", None)

    def has_ended() -> bool:
        orders = server.get(url)["orders"]
        story.show(wanted.label, orders)
        return all(orders[status] == count for status, count in expected.items())

    wait_for(has_ended, f"the end of {wanted.label}")


def _unmoved(agents: list[FleetAgent]) -> Callable[[], bool]:
    """Return whether two looks, a second apart, saw the same."""

    def look() -> bool:
        before = [agent.counted() for agent in agents]
        threading.Event().wait(SETTLED_SECONDS)
        return before == [agent.counted() for agent in agents] and all(agent.is_settled() for agent in agents)

    return look


def _reckoning(told: Mapping[str, Counted], stored: Mapping[str, Counted]) -> Table:
    table = Table("agent", title="as the agents tell it = as the database has it")
    for column in ("events sent = stored", "states kept = stored", "orders got = offered", "results = successes"):
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
