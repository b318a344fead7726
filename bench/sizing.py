"""Fill in the tables of `docs/operations/sizing.md` from the figures of `make bench` in `build/`."""

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
    reconnections_per_second,
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
"""The time until a restarted server has bound its ports."""

RUNS = 5

RESOURCES = {
    "node_cores": "CPU of nodes",
    "database_cores": "CPU of PostgreSQL",
    "write_mb_per_second": "writes of PostgreSQL: log and tables",
    "disk_tb": "disk of PostgreSQL",
    "connections": "connections to PostgreSQL",
    "storm_seconds": "logins after an outage",
}
VARIANTS = ("as planned", "with TLS ended at the balancer", "and events in JetStream only")
Cell = str | float


def page_tables(root: Path) -> dict[str, str]:
    """Return the tables of the page by name, computed from the measurements in a folder."""
    raw = {one.name: _read(root / "bench" / f"{one.name}.json") for one in MEASUREMENTS}
    costs, policy, limits, rates = costs_of(raw), _policy(), Limits(), Rates()
    tls_ended = msgspec.structs.replace(rates, is_tls_at_the_balancer=True)
    no_events = msgspec.structs.replace(tls_ended, are_events_in_postgresql=False)
    variants = [[plan(size, variant, costs, policy) for size in SIZES] for variant in (rates, tls_ended, no_events)]
    needs, balanced, _ = variants
    return {
        "run": _run(root),
        "rates": _rates(rates),
        "costs": _costs(costs),
        "plan": _plan(needs, balanced),
        "first": _first(variants, limits),
        "limits": _limits([variant[-1] for variant in variants], limits),
        "storm": _storms(needs, costs, raw["herd"]["raw"]),
    }


def costs_of(raw: dict[str, Any]) -> Costs:
    """Return the cost of each operation from the raw data of the measurements, by name."""
    weighed, request = raw["footprint"]["raw"]["costs"], raw["one_event"]["raw"]["cpu_us_per_request"]
    event, small, state, order, sighting = (
        weighed[name] for name in ("event", "small_batch_event", "state", "order", "sighting")
    )
    return Costs(
        # A request on a fresh connection, less one on an open connection.
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
        event_log_bytes=small["log_bytes"],
        state_log_bytes=state["log_bytes"],
        order_log_bytes=order["log_bytes"] + weighed["archived_order"]["log_bytes"],
        sighting_log_bytes=sighting["log_bytes"],
        # The planned agents send small batches, which are compressed less.
        event_bytes=small["table_bytes"],
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
        raise click.ClickException(f"{path} is missing: run `make bench` first")
    return msgspec.json.decode(path.read_bytes())


def _run(root: Path) -> str:
    meta = _read(root / REPORT.name)["meta"]
    at = {one.name: (root / "bench" / f"{one.name}.json").stat().st_mtime for one in MEASUREMENTS}
    times = ", ".join(f"{name} {datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M}" for name, time in at.items())
    return (
        f"The last run: {meta['date'][:16]} UTC, commit `{meta['commit'][:12]}`, hypercorn {meta['hypercorn']}, "
        f"{meta['cores']} cores, load average before it {meta['load_average_before']:.1f}, kernel {meta['kernel']}, "
        f"Python {meta['python']}, PostgreSQL {meta['postgres']}.\nThe measurements: {times}."
    )


def _rates(rates: Rates) -> str:
    per_second = frequencies(rates)
    rows: list[Sequence[Cell]] = [
        (
            f"a batch of {rates.batch_events:g} events of 400 bytes",
            f"every {rates.batch_seconds:g} s",
            per_second["batch"],
        ),
        (
            f"a batch of {rates.state_batch_states:g} states; an agent keeps {rates.states_kept:,g}",
            f"every {rates.state_batch_seconds:g} s",
            per_second["states"],
        ),
        (
            f"a poll, held `poll_wait_seconds` = {rates.poll_wait_seconds:g}",
            f"{rates.poll_pause_seconds:g} s after an answer",
            per_second["poll"],
        ),
        ("a login", f"every {rates.token_seconds:g} s", per_second["login"]),
        ("an order and its result, from group commands", f"{rates.commands_a_day:g} a day", per_second["result"]),
        ("together", "", sum(per_second.values())),
    ]
    return table(("what an agent does", "how often", "requests/s, each on a new TLS connection"), rows)


def _costs(costs: Costs) -> str:
    rows: list[Sequence[Cell]] = [
        ("opening and closing a TLS connection", costs.connection_us, "", "", ""),
        ("a request", costs.request_us, costs.request_database_us, "", ""),
        ("a login, with its connection", costs.login_us, costs.login_database_us, "", ""),
        ("an event", costs.event_us, costs.event_database_us, costs.event_log_bytes, costs.event_bytes),
        ("a state", costs.state_us, costs.state_database_us, costs.state_log_bytes, costs.state_bytes),
        ("an order's life", "", costs.order_database_us, costs.order_log_bytes, costs.finished_order_bytes),
        ("an archived order", "", "", "", costs.archived_order_bytes),
        ("recording that an agent was seen", "", costs.sighting_database_us, costs.sighting_log_bytes, ""),
        ("claiming the orders of a poll", "", costs.poll_database_us, "", ""),
        ("an agent", "", "", "", costs.agent_bytes),
    ]
    header = ("what", "node, CPU µs", "PostgreSQL, CPU µs", "log, bytes", "table and indexes, bytes")
    memory = f"A held poll takes {costs.poll_kb:.0f} KB of the node's memory, an idle worker {costs.rest_mb:.0f} MB."
    return f"{table(header, rows)}\n\n{memory}"


def _plan(needs: Sequence[Need], balanced: Sequence[Need]) -> str:
    rows: list[Sequence[Cell]] = [
        ("requests/s", *(need.requests_per_second for need in needs)),
        ("cores of nodes", *(need.node_cores for need in needs)),
        ("nodes, and cores of each; with one spare node", *(f"{need.nodes} of {need.workers}" for need in needs)),
        ("the same, TLS ended at the balancer", *(f"{need.nodes} of {need.workers}" for need in balanced)),
        ("memory of a node in use, GB", *(need.node_memory_gb for need in needs)),
        ("cores of PostgreSQL", *(need.database_cores for need in needs)),
        ("memory of PostgreSQL for hot rows, GB", *(need.hot_gb for need in needs)),
        ("connections to PostgreSQL, at most", *(need.connections for need in needs)),
        ("write-ahead log, MB/s", *(need.log_mb_per_second for need in needs)),
        ("writes, MB/s, with headroom", *(need.write_mb_per_second for need in needs)),
        ("disk, GB a day", *(need.disk_gb_a_day for need in needs)),
        ("disk for the retention, TB", *(need.disk_tb for need in needs)),
    ]
    return table(("agents", *(f"{size:,}" for size in SIZES)), rows)


def _first(variants: Sequence[Sequence[Need]], limits: Limits) -> str:
    rows = [(f"{size:,}", *(_saturating(variant[at], limits) for variant in variants)) for at, size in enumerate(SIZES)]
    return table(("agents", *VARIANTS), rows)


def _saturating(need: Need, limits: Limits) -> str:
    name = saturating(need, limits)
    return f"{RESOURCES[name]}: {ratios(need, limits)[name]:.0%}"


def _limits(variants: Sequence[Need], limits: Limits) -> str:
    carried = {
        name: [agents_carried(name, need, limits) for need in variants]
        for name in RESOURCES
        if name != "storm_seconds"  # nodes are added with the agents
    }
    rows: list[Sequence[Cell]] = [
        (RESOURCES[name], getattr(limits, name), *(f"{_rounded(agents):,}" for agents in counts))
        for name, counts in carried.items()
    ]
    rows.append(("all of them", "", *(f"{_rounded(min(counts)):,}" for counts in zip(*carried.values(), strict=True))))
    return table(("resource", "limit", *VARIANTS), rows)


def _rounded(agents: int) -> int:
    """Round to two digits, since more are not known."""
    return int(float(f"{agents:.1e}"))


def _storms(needs: Sequence[Need], costs: Costs, measured: dict[str, Any]) -> str:
    random.seed(1)  # so that the page changes only with the measurements
    agents, herd_seconds = measured["agents"], measured["seconds_since_death"]
    down_seconds = herd_seconds - measured["seconds_since_up"]
    # These agents keep their tokens and only poll, and the number of waiting polls is not limited.
    herd = Worker(1e6 / (costs.connection_us + costs.request_us), waiting_maximum=agents)
    rows: list[Sequence[Cell]] = [
        (
            f"{agents:,}",
            1,
            herd.per_second,
            down_seconds,
            f"{_last(agents, herd, Outage(down_seconds, BOUND_SECONDS))}; measured: {herd_seconds:.0f}",
        )
    ]
    reconnections = reconnections_per_second(Rates(), costs)
    worker = Worker(reconnections, refusal_share=reconnections / herd.per_second)
    for need in needs:
        workers = need.nodes * need.workers
        last = _last(need.agents // workers, worker, OUTAGE)
        rows.append((f"{need.agents:,}", workers, reconnections, OUTAGE.seconds, last))
    header = (
        "agents",
        "workers",
        "agents/s per worker",
        "outage, s",
        "s from its start until all are served",
    )
    return table(header, rows)


def _last(agents: int, worker: Worker, outage: Outage) -> str:
    storms = [simulate(agents, worker, outage) for _ in range(RUNS)]
    return f"{max(storm.seconds for storm in storms):.0f}"


def shown(cell: Cell) -> str:
    """Return a number with its significant digits."""
    if isinstance(cell, str):
        return cell
    if cell >= 100:  # noqa: PLR2004 - three digits
        return f"{float(f'{cell:.3g}'):,.0f}"
    return f"{cell:.2g}" if cell < 10 else f"{cell:.0f}"  # noqa: PLR2004 - two digits


def table(header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *([shown(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def filled(page: str, name: str, content: str) -> str:
    """Return the page with the content between the two marks of a name replaced."""
    begin, end = f"<!-- begin {name} -->\n", f"\n<!-- end {name} -->"
    if begin not in page or end not in page:
        raise ValueError(f"the page has no marks for {name}")
    return page.partition(begin)[0] + begin + content + end + page.partition(end)[2]


@click.command()
@click.option("--build", default=BUILD, type=click.Path(path_type=Path), show_default=True, help="Folder of figures.")
def main(build: Path) -> None:
    """Update the tables of the page."""
    page = PAGE.read_text()
    for name, content in page_tables(build).items():
        page = filled(page, name, content)
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
