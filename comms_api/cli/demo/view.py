"""The live view of the demonstration."""

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from comms_api.cli.demo.fleet import DemoAgent

ENDED = ("success", "failure", "cancelled")
STATUSES = ("pending", *ENDED)
BAR_WIDTH = 10


class LiveView:
    """A log of events, the progress of each command, and each agent's counters."""

    def __init__(self, agents: Sequence[DemoAgent]) -> None:
        self._agents = agents
        self._lines: list[str] = []
        self._commands: dict[str, Mapping[str, int]] = {}

    def add(self, line: str) -> None:
        """Add a line to the log."""
        self._lines.append(line)

    def show_progress(self, command: str, orders: Mapping[str, int]) -> None:
        """Show the statuses of a command's orders, in place of those shown before."""
        self._commands[command] = orders

    def __rich__(self) -> RenderableType:
        """Draw the view."""
        lines = [Text.from_markup(line) for line in self._lines]
        return Group(*lines, *([self._progress()] if self._commands else []), self._counters())

    def _progress(self) -> Table:
        table = Table(Column("command", no_wrap=True), "", *STATUSES)
        for command, orders in self._commands.items():
            bar = ProgressBar(orders["total"], sum(orders[status] for status in ENDED), width=BAR_WIDTH)
            table.add_row(command, bar, *(str(orders[status] or "") for status in STATUSES))
        return table

    def _counters(self) -> Table:
        table = Table(
            "agent", "enrolled by", "logins", "events sent", "states sent", "orders executed", "results reported"
        )
        for agent in self._agents:
            found = agent.statistics()
            counters = (
                found.logins,
                found.events_sent,
                found.states_sent,
                found.orders_executed,
                found.results_reported,
            )
            table.add_row(agent.name, agent.enrollment, *map(str, counters))
        return table
