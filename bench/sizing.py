"""Fill in the tables of `docs/operations/sizing.md` from what `make bench` has left in `build/`."""

import random
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from bench import footprint, herd, logins, one_event, polls, rest
from bench.capacity import (
    Costs,
    Limits,
    Need,
    Policy,
    Rates,
    agents_carried,
    frequencies,
    plan,
    ratios,
    returns_per_second,
    saturating,
)
from bench.figures import Measurement
from bench.report import BUILD, REPORT
from bench.storm import Outage, Worker, simulate
from comms_api.settings import Settings

PAGE = Path("docs/operations/sizing.md")
SIZES = (1_000, 10_000, 100_000, 1_000_000)
MEASUREMENTS: Sequence[Measurement] = tuple(
    module.MEASUREMENT for module in (footprint, one_event, logins, polls, rest, herd)
)
OUTAGE = Outage(60, closed_seconds=60)
BOUND_SECONDS = 0.5
"""After this, a server that starts again has bound its ports."""

RUNS = 5

RESOURCES = {
    "node_cores": "CPU of nodes",
    "database_cores": "CPU of PostgreSQL",
    "write_mb_per_second": "writes of PostgreSQL: log and tables",
    "disk_tb": "disk of PostgreSQL",
    "connections": "connections to PostgreSQL",
    "storm_seconds": "logins after an outage",
}
WAYS = ("as planned", "with TLS ended at the balancer", "and events in JetStream only")
Cell = str | float


def main_tables(root: Path) -> dict[str, str]:
    """Return the parts of the page by name, of the measurements in a folder."""
    raw = {one.name: _read(root / "bench" / f"{one.name}.json") for one in MEASUREMENTS}
    costs, policy, limits, rates = costs_of(raw), _policy(), Limits(), Rates()
    balanced = msgspec.structs.replace(rates, is_tls_at_the_balancer=True)
    elsewhere = msgspec.structs.replace(balanced, are_events_in_postgresql=False)
    ways = (rates, balanced, elsewhere)
    needs, behind, without = ([plan(size, way, costs, policy) for size in SIZES] for way in ways)
    return {
        "run": _run(root),
        "rates": _rates(rates),
        "costs": _costs(costs),
        "plan": _plan(needs, behind),
        "first": _first((needs, behind, without), limits),
        "limits": _limits((needs[-1], behind[-1], without[-1]), limits),
        "storm": _storms(needs, costs, raw["herd"]["raw"]),
    }


def costs_of(raw: dict[str, Any]) -> Costs:
    """Return what each thing costs, of the raw data of the measurements by name."""
    weighed, request = raw["footprint"]["raw"]["costs"], raw["one_event"]["raw"]["cpu_us_per_request"]
    event, state, order, sighting = (weighed[name] for name in ("event", "state", "order", "sighting"))
    return Costs(
        # A connection of its own, less the request on it; that is of an agent's last event as well as of its poll.
        connection_us=weighed["fresh_event"]["server_cpu_us"] - request["server"],
        request_us=request["server"],
        login_us=raw["logins"]["raw"]["cpu_us_per_login"]["server"],
        event_us=event["server_cpu_us"],
        state_us=state["server_cpu_us"],
        request_database_us=request["postgresql"],
        login_database_us=weighed["fresh_login"]["postgresql_cpu_us"],
        event_database_us=event["postgresql_cpu_us"],
        state_database_us=state["postgresql_cpu_us"],
        order_database_us=order["postgresql_cpu_us"] + weighed["archived_order"]["postgresql_cpu_us"],
        sighting_database_us=sighting["postgresql_cpu_us"],
        poll_database_us=weighed["poll"]["postgresql_cpu_us"],
        event_log_bytes=event["log_bytes"],
        state_log_bytes=state["log_bytes"],
        order_log_bytes=order["log_bytes"] + weighed["archived_order"]["log_bytes"],
        sighting_log_bytes=sighting["log_bytes"],
        event_bytes=event["table_bytes"],
        state_bytes=state["table_bytes"],
        finished_order_bytes=order["table_bytes"],
        archived_order_bytes=weighed["archived_order"]["table_bytes"],
        agent_bytes=raw["footprint"]["raw"]["agent_table_bytes"],
        poll_kb=raw["polls"]["values"]["poll_kb"],
        rest_mb=raw["rest"]["values"]["rest_mb"],
    )


def _policy() -> Policy:
    settings = Settings()
    return Policy(
        pool_size=settings.database_pool_size,
        sweep_seconds=settings.sweep_seconds,
        events_days=settings.events_retention_days,
        archive_days=settings.orders_archive_days,
        orders_days=settings.orders_retention_days,
    )


def _read(path: Path) -> Any:
    if not path.exists():
        raise click.ClickException(f"{path} is missing: measure it by `make bench` first")
    return msgspec.json.decode(path.read_bytes())


def _run(root: Path) -> str:
    meta = _read(root / REPORT.name)["meta"]
    at = {one.name: (root / "bench" / f"{one.name}.json").stat().st_mtime for one in MEASUREMENTS}
    taken = ", ".join(f"{name} {datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M}" for name, time in at.items())
    return (
        f"The last run: {meta['date'][:16]} UTC, commit `{meta['commit'][:12]}`, hypercorn {meta['hypercorn']}, "
        f"{meta['cores']} cores, load average before it {meta['load_average_before']:.1f}, kernel {meta['kernel']}, "
        f"Python {meta['python']}, PostgreSQL {meta['postgres']}.\nThe measurements: {taken}."
    )


def _rates(rates: Rates) -> str:
    often = frequencies(rates)
    rows: list[Sequence[Cell]] = [
        (f"a batch of {rates.batch_events:g} events of 400 bytes", f"each {rates.batch_seconds:g} s", often["batch"]),
        (
            f"a batch of {rates.state_batch_states:g} states; {rates.states_kept:,g} are kept of an agent",
            f"each {rates.state_batch_seconds:g} s",
            often["states"],
        ),
        (
            f"a poll, held `poll_wait_seconds` = {rates.poll_wait_seconds:g}",
            f"{rates.poll_pause_seconds:g} s after the answer",
            often["poll"],
        ),
        ("a login", f"each {rates.token_seconds:g} s", often["login"]),
        ("an order and its result, from group commands", f"{rates.commands_a_day:g} a day", often["result"]),
        ("together", "", sum(often.values())),
    ]
    return table(("what an agent does", "how often", "requests/s, each on a TLS connection of its own"), rows)


def _costs(costs: Costs) -> str:
    rows: list[Sequence[Cell]] = [
        ("opening and closing a TLS connection", costs.connection_us, "", "", ""),
        ("a request", costs.request_us, costs.request_database_us, "", ""),
        ("a login, its connection included", costs.login_us, costs.login_database_us, "", ""),
        ("an event", costs.event_us, costs.event_database_us, costs.event_log_bytes, costs.event_bytes),
        ("a state", costs.state_us, costs.state_database_us, costs.state_log_bytes, costs.state_bytes),
        ("an order's life", "", costs.order_database_us, costs.order_log_bytes, costs.finished_order_bytes),
        ("an archived order", "", "", "", costs.archived_order_bytes),
        ("noting that an agent was seen", "", costs.sighting_database_us, costs.sighting_log_bytes, ""),
        ("looking for a poll's orders", "", costs.poll_database_us, "", ""),
        ("an agent", "", "", "", costs.agent_bytes),
    ]
    header = ("what", "node, CPU µs", "PostgreSQL, CPU µs", "log, bytes", "table and indexes, bytes")
    memory = f"A held poll takes {costs.poll_kb:.0f} KB of the node's memory, a worker at rest {costs.rest_mb:.0f} MB."
    return f"{table(header, rows)}\n\n{memory}"


def _plan(needs: Sequence[Need], behind: Sequence[Need]) -> str:
    rows: list[Sequence[Cell]] = [
        ("requests/s", *(need.requests_per_second for need in needs)),
        ("cores of nodes", *(need.node_cores for need in needs)),
        ("nodes, and cores of each; one node to spare", *(f"{need.nodes} of {need.workers}" for need in needs)),
        ("the same, TLS ended at the balancer", *(f"{need.nodes} of {need.workers}" for need in behind)),
        ("memory of a node in use, GB", *(need.node_memory_gb for need in needs)),
        ("cores of PostgreSQL", *(need.database_cores for need in needs)),
        ("memory of PostgreSQL for what is hot, GB", *(need.hot_gb for need in needs)),
        ("connections to PostgreSQL, at most", *(need.connections for need in needs)),
        ("write-ahead log, MB/s", *(need.log_mb_per_second for need in needs)),
        ("writes, MB/s, with head-room", *(need.write_mb_per_second for need in needs)),
        ("disk, GB a day", *(need.disk_gb_a_day for need in needs)),
        ("disk for the retention, TB", *(need.disk_tb for need in needs)),
    ]
    return table(("agents", *(f"{size:,}" for size in SIZES)), rows)


def _first(ways: Sequence[Sequence[Need]], limits: Limits) -> str:
    rows = [(f"{size:,}", *(_saturating(way[at], limits) for way in ways)) for at, size in enumerate(SIZES)]
    return table(("agents", *WAYS), rows)


def _saturating(need: Need, limits: Limits) -> str:
    name = saturating(need, limits)
    return f"{RESOURCES[name]}: {ratios(need, limits)[name]:.0%}"


def _limits(ways: Sequence[Need], limits: Limits) -> str:
    carried = {
        name: [agents_carried(name, need, limits) for need in ways]
        for name in RESOURCES
        if name != "storm_seconds"  # nodes are added with the agents
    }
    rows: list[Sequence[Cell]] = [
        (RESOURCES[name], getattr(limits, name), *(f"{_rounded(agents):,}" for agents in of_ways))
        for name, of_ways in carried.items()
    ]
    rows.append(("all of them", "", *(f"{_rounded(min(of_way)):,}" for of_way in zip(*carried.values(), strict=True))))
    return table(("resource", "limit", *WAYS), rows)


def _rounded(agents: int) -> int:
    """Return two digits of it: more are not known."""
    return int(float(f"{agents:.1e}"))


def _storms(needs: Sequence[Need], costs: Costs, measured: dict[str, Any]) -> str:
    random.seed(1)  # so that the page changes with the measurements only
    agents, lasted = measured["agents"], measured["seconds_since_death"]
    down = lasted - measured["seconds_since_up"]
    # Its agents keep their tokens: they poll, and of polls any number may wait.
    herd = Worker(1e6 / (costs.connection_us + costs.request_us), waiting_maximum=agents)
    rows: list[Sequence[Cell]] = [
        (
            f"{agents:,}",
            1,
            herd.per_second,
            down,
            f"{_last(agents, herd, Outage(down, BOUND_SECONDS))}; measured: {lasted:.0f}",
        )
    ]
    back = returns_per_second(Rates(), costs)
    worker = Worker(back, refusal_share=back / herd.per_second)
    for need in needs:
        workers = need.nodes * need.workers
        last = _last(need.agents // workers, worker, OUTAGE)
        rows.append((f"{need.agents:,}", workers, back, OUTAGE.seconds, last))
    header = (
        "agents",
        "workers",
        "agents/s that each takes back",
        "outage, s",
        "s from its beginning until all are back",
    )
    return table(header, rows)


def _last(agents: int, worker: Worker, outage: Outage) -> str:
    storms = [simulate(agents, worker, outage) for _ in range(RUNS)]
    return f"{max(storm.seconds for storm in storms):.0f}"


def shown(cell: Cell) -> str:
    """Return a number with the digits that are known of it."""
    if isinstance(cell, str):
        return cell
    if cell >= 100:  # noqa: PLR2004 - three digits
        return f"{float(f'{cell:.3g}'):,.0f}"
    return f"{cell:.2g}" if cell < 10 else f"{cell:.0f}"  # noqa: PLR2004 - two digits


def table(header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """Return a table of Markdown."""
    lines = [header, ["---"] * len(header), *([shown(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def filled(page: str, name: str, content: str) -> str:
    """Return the page with what is between the two marks of a name replaced."""
    begin, end = f"<!-- begin {name} -->\n", f"\n<!-- end {name} -->"
    if begin not in page or end not in page:
        raise ValueError(f"the page has no marks for {name}")
    return page.partition(begin)[0] + begin + content + end + page.partition(end)[2]


@click.command()
@click.option("--build", default=BUILD, type=click.Path(path_type=Path), show_default=True, help="Where the data is.")
def main(build: Path) -> None:
    """Write the tables of the page anew."""
    page = PAGE.read_text()
    for name, content in main_tables(build).items():
        page = filled(page, name, content)
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
