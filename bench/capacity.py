"""Compute what a fleet needs from the cost of each operation and its frequency. Pure functions."""

import math
from collections.abc import Mapping

import msgspec

DAY_SECONDS = 86_400
HOT_SECONDS = 300
"""New rows are hot for this long, until a checkpoint has written them."""

PAGE_BYTES = 8_192
"""The size of an index page. Each agent has one hot page, the page of its newest events."""


class Rates(msgspec.Struct, frozen=True):
    """The activity of an agent. Real agents open a TLS connection for each request."""

    batch_seconds: float = 10
    batch_events: float = 5
    state_batch_seconds: float = 300
    state_batch_states: float = 10
    states_kept: float = 1_000
    poll_wait_seconds: float = 60
    poll_pause_seconds: float = 1
    token_seconds: float = 900
    commands_a_day: float = 10
    are_events_in_postgresql: bool = True
    is_tls_at_the_balancer: bool = False


class Costs(msgspec.Struct, frozen=True):
    """The cost of each operation: CPU microseconds of a node (`_us`) and of PostgreSQL (`_database_us`), and bytes."""

    connection_us: float
    request_us: float
    login_us: float
    event_us: float
    state_us: float
    request_database_us: float
    login_database_us: float
    event_database_us: float
    state_database_us: float
    order_database_us: float
    sighting_database_us: float
    poll_database_us: float
    event_log_bytes: float
    state_log_bytes: float
    order_log_bytes: float
    sighting_log_bytes: float
    event_bytes: float
    state_bytes: float
    finished_order_bytes: float
    archived_order_bytes: float
    agent_bytes: float
    poll_kb: float
    rest_mb: float


class Policy(msgspec.Struct, frozen=True):
    """The operation of the system: headroom, the size of a node, and the settings that matter."""

    utilisation: float = 0.5
    cores_maximum: int = 8
    """The most cores per node. Each core runs a worker; nodes of small fleets have fewer cores."""

    nodes_minimum: int = 2  # so that one may fail
    pool_size: int = 8
    sweep_seconds: float = 5
    events_days: int = 30
    archive_days: int = 7
    orders_days: int = 30


class Limits(msgspec.Struct, frozen=True):
    """The limits of an ordinary deployment: of all nodes, and of one PostgreSQL."""

    node_cores: float = 160
    database_cores: float = 32
    write_mb_per_second: float = 1_000
    disk_tb: float = 16
    connections: float = 500
    storm_seconds: float = 60


class Need(msgspec.Struct, frozen=True):
    """The needs of a fleet, with headroom except for `log_mb_per_second` and the disk."""

    agents: int
    requests_per_second: float
    node_cores: float
    nodes: int
    workers: int
    """Workers per node."""

    node_memory_gb: float
    database_cores: float
    hot_gb: float
    connections: int
    log_mb_per_second: float
    write_mb_per_second: float
    disk_gb_a_day: float
    disk_tb: float
    storm_seconds: float


def frequencies(rates: Rates) -> dict[str, float]:
    """Return an agent's requests per second, by kind."""
    return {
        "batch": 1 / rates.batch_seconds,
        "states": 1 / rates.state_batch_seconds,
        "poll": 1 / (rates.poll_wait_seconds + rates.poll_pause_seconds),
        "login": 1 / rates.token_seconds,
        "result": rates.commands_a_day / DAY_SECONDS,
    }


def node_us(rates: Rates, costs: Costs) -> float:
    """Return the CPU microseconds of nodes per agent and second."""
    per_second = frequencies(rates)
    requests = (sum(per_second.values()) - per_second["login"]) * (_connection_us(rates, costs) + costs.request_us)
    logins = per_second["login"] * _login_us(rates, costs)
    return requests + logins + _events(rates) * costs.event_us + _states(rates) * costs.state_us


def database_us(rates: Rates, costs: Costs, sweep_seconds: float) -> float:
    """Return the CPU microseconds of PostgreSQL per agent and second."""
    per_second = frequencies(rates)
    writes = (
        per_second["states"] + per_second["result"] + (per_second["batch"] if rates.are_events_in_postgresql else 0)
    )
    return (
        writes * costs.request_database_us
        + sum(per_second.values()) * costs.sighting_database_us
        + (per_second["poll"] + _polls_held(rates) / sweep_seconds) * costs.poll_database_us
        + per_second["login"] * costs.login_database_us
        + per_second["result"] * costs.order_database_us
        + _stored_events(rates) * costs.event_database_us
        + _states(rates) * costs.state_database_us
    )


def log_bytes(rates: Rates, costs: Costs) -> float:
    """Return the bytes of write-ahead log per agent and second."""
    per_second = frequencies(rates)
    return (
        sum(per_second.values()) * costs.sighting_log_bytes
        + _stored_events(rates) * costs.event_log_bytes
        + _states(rates) * costs.state_log_bytes
        + per_second["result"] * costs.order_log_bytes
    )


def table_bytes(rates: Rates, costs: Costs) -> float:
    """Return the growth of tables and indexes in bytes per agent and second, before old rows are dropped."""
    return _stored_events(rates) * costs.event_bytes + frequencies(rates)["result"] * costs.finished_order_bytes


def kept_bytes(rates: Rates, costs: Costs, policy: Policy) -> float:
    """Return the bytes of an agent's rows once old rows are dropped as fast as new ones are added."""
    events = _stored_events(rates) * DAY_SECONDS * policy.events_days * costs.event_bytes
    finished = policy.archive_days * costs.finished_order_bytes
    archived = (policy.orders_days - policy.archive_days) * costs.archived_order_bytes
    return events + rates.commands_a_day * (finished + archived) + _lasting_bytes(rates, costs)


def plan(agents: int, rates: Rates, costs: Costs, policy: Policy) -> Need:
    """Return what a number of agents needs, with one spare node."""
    node_cores = agents * node_us(rates, costs) / 1e6 / policy.utilisation
    nodes = max(policy.nodes_minimum, math.ceil(node_cores / policy.cores_maximum) + 1)
    workers = math.ceil(node_cores / (nodes - 1))
    log = agents * log_bytes(rates, costs) / 1e6
    growth = agents * table_bytes(rates, costs) / 1e6
    polls_kb = agents * _polls_held(rates) / (nodes - 1) * costs.poll_kb
    hot = agents * (_lasting_bytes(rates, costs) + HOT_SECONDS * table_bytes(rates, costs) + PAGE_BYTES)
    return Need(
        agents=agents,
        requests_per_second=agents * sum(frequencies(rates).values()),
        node_cores=node_cores,
        nodes=nodes,
        workers=workers,
        node_memory_gb=(workers * costs.rest_mb + polls_kb / 1024) / 1024,
        database_cores=agents * database_us(rates, costs, policy.sweep_seconds) / 1e6 / policy.utilisation,
        hot_gb=hot / 1e9,
        connections=nodes * workers * policy.pool_size,
        log_mb_per_second=log,
        write_mb_per_second=(log + growth) / policy.utilisation,
        disk_gb_a_day=growth * DAY_SECONDS / 1e3,
        disk_tb=agents * kept_bytes(rates, costs, policy) / 1e12,
        storm_seconds=agents / (nodes * workers * reconnections_per_second(rates, costs)),
    )


def reconnections_per_second(rates: Rates, costs: Costs) -> float:
    """Return how many agents a core serves per second after an outage, if their tokens have expired."""
    return 1e6 / (_login_us(rates, costs) + _connection_us(rates, costs) + costs.request_us)


def ratios(need: Need, limits: Limits) -> dict[str, float]:
    """Return the needed share of the limit of each resource; more than 1 exceeds the limit."""
    limited: Mapping[str, float] = msgspec.structs.asdict(limits)
    return {name: float(getattr(need, name)) / limit for name, limit in limited.items()}


def saturating(need: Need, limits: Limits) -> str:
    """Return the resource with the highest ratio."""
    shares = ratios(need, limits)
    return max(shares, key=lambda name: shares[name])


def agents_carried(resource: str, need: Need, limits: Limits) -> int:
    """Return how many agents a resource suffices for; `need` is of a large fleet, as rounding distorts small ones."""
    return int(need.agents / ratios(need, limits)[resource])


def _connection_us(rates: Rates, costs: Costs) -> float:
    return 0.0 if rates.is_tls_at_the_balancer else costs.connection_us


def _login_us(rates: Rates, costs: Costs) -> float:
    return costs.login_us - costs.connection_us + _connection_us(rates, costs)


def _events(rates: Rates) -> float:
    return rates.batch_events / rates.batch_seconds


def _stored_events(rates: Rates) -> float:
    return _events(rates) if rates.are_events_in_postgresql else 0.0


def _states(rates: Rates) -> float:
    return rates.state_batch_states / rates.state_batch_seconds


def _polls_held(rates: Rates) -> float:
    return rates.poll_wait_seconds / (rates.poll_wait_seconds + rates.poll_pause_seconds)


def _lasting_bytes(rates: Rates, costs: Costs) -> float:
    return rates.states_kept * costs.state_bytes + costs.agent_bytes
