"""The arithmetic of sizing: what a fleet needs, of what each thing costs and how often agents do it. Pure functions."""

import math
from collections.abc import Mapping

import msgspec

DAY_SECONDS = 86_400
HOT_SECONDS = 300
"""New rows of so long are still being written out, by checkpoints."""

PAGE_BYTES = 8_192
"""Each agent's newest events end in an index page of its own."""


class Rates(msgspec.Struct, frozen=True):
    """What an agent does; real agents open a TLS connection for each request."""

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
    """What each thing costs: CPU in microseconds, of a node (`_us`) and of PostgreSQL (`_database_us`), and bytes."""

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
    """How it is run: head-room, the size of a node, and the settings that count."""

    utilisation: float = 0.5
    cores_maximum: int = 8
    """Of a node; each core runs a worker, and a small fleet's nodes have fewer."""

    nodes_minimum: int = 2  # at least: one may be lost
    pool_size: int = 8
    sweep_seconds: float = 5
    events_days: int = 30
    archive_days: int = 7
    orders_days: int = 30


class Limits(msgspec.Struct, frozen=True):
    """The most that is taken for ordinary: of nodes, and of one PostgreSQL."""

    node_cores: float = 160
    database_cores: float = 32
    write_mb_per_second: float = 1_000
    disk_tb: float = 16
    connections: float = 500
    storm_seconds: float = 60


class Need(msgspec.Struct, frozen=True):
    """What a fleet needs, head-room included, except in `log_mb_per_second` and on the disk."""

    agents: int
    requests_per_second: float
    node_cores: float
    nodes: int
    workers: int
    """Of each node."""

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
    """Return how many requests of each kind an agent makes in a second."""
    return {
        "batch": 1 / rates.batch_seconds,
        "states": 1 / rates.state_batch_seconds,
        "poll": 1 / (rates.poll_wait_seconds + rates.poll_pause_seconds),
        "login": 1 / rates.token_seconds,
        "result": rates.commands_a_day / DAY_SECONDS,
    }


def node_us(rates: Rates, costs: Costs) -> float:
    """Return the CPU of nodes that an agent takes, in microseconds per second."""
    often = frequencies(rates)
    requests = (sum(often.values()) - often["login"]) * (_connection_us(rates, costs) + costs.request_us)
    logins = often["login"] * _login_us(rates, costs)
    return requests + logins + _events(rates) * costs.event_us + _states(rates) * costs.state_us


def database_us(rates: Rates, costs: Costs, sweep_seconds: float) -> float:
    """Return the CPU of PostgreSQL that an agent takes, in microseconds per second."""
    often = frequencies(rates)
    writes = often["states"] + often["result"] + (often["batch"] if rates.are_events_in_postgresql else 0)
    return (
        writes * costs.request_database_us
        + sum(often.values()) * costs.sighting_database_us
        + (often["poll"] + _polls_held(rates) / sweep_seconds) * costs.poll_database_us
        + often["login"] * costs.login_database_us
        + often["result"] * costs.order_database_us
        + _stored_events(rates) * costs.event_database_us
        + _states(rates) * costs.state_database_us
    )


def log_bytes(rates: Rates, costs: Costs) -> float:
    """Return the bytes of write-ahead log that an agent causes in a second."""
    often = frequencies(rates)
    return (
        sum(often.values()) * costs.sighting_log_bytes
        + _stored_events(rates) * costs.event_log_bytes
        + _states(rates) * costs.state_log_bytes
        + often["result"] * costs.order_log_bytes
    )


def table_bytes(rates: Rates, costs: Costs) -> float:
    """Return the bytes that tables and indexes grow by in a second, for an agent, before anything is dropped."""
    return _stored_events(rates) * costs.event_bytes + frequencies(rates)["result"] * costs.finished_order_bytes


def kept_bytes(rates: Rates, costs: Costs, policy: Policy) -> float:
    """Return what an agent's rows take once the oldest are dropped as fast as new ones come."""
    events = _stored_events(rates) * DAY_SECONDS * policy.events_days * costs.event_bytes
    finished = policy.archive_days * costs.finished_order_bytes
    archived = (policy.orders_days - policy.archive_days) * costs.archived_order_bytes
    return events + rates.commands_a_day * (finished + archived) + _lasting_bytes(rates, costs)


def plan(agents: int, rates: Rates, costs: Costs, policy: Policy) -> Need:
    """Return what so many agents need; one node more than they need, so that one may be lost."""
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
        storm_seconds=agents / (nodes * workers * returns_per_second(rates, costs)),
    )


def returns_per_second(rates: Rates, costs: Costs) -> float:
    """Return how many agents a core takes back in a second, after an outage that has outlasted their tokens."""
    return 1e6 / (_login_us(rates, costs) + _connection_us(rates, costs) + costs.request_us)


def ratios(need: Need, limits: Limits) -> dict[str, float]:
    """Return of each resource how much of its limit is needed; more than 1 is too much."""
    limited: Mapping[str, float] = msgspec.structs.asdict(limits)
    return {name: float(getattr(need, name)) / limit for name, limit in limited.items()}


def saturating(need: Need, limits: Limits) -> str:
    """Return the resource that is nearest to its limit, or furthest beyond."""
    shares = ratios(need, limits)
    return max(shares, key=lambda name: shares[name])


def agents_carried(resource: str, need: Need, limits: Limits) -> int:
    """Return how many agents a resource is enough for; `need` is a large fleet's, as small ones round up."""
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
