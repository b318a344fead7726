"""The arithmetic of `docs/operations/sizing.md`."""

import msgspec
import pytest

from bench.capacity import (
    Costs,
    Limits,
    Policy,
    Rates,
    agents_carried,
    database_us,
    kept_bytes,
    node_us,
    plan,
    ratios,
    saturating,
)
from bench.sizing import filled
from bench.storm import Outage, Worker, simulate

FREE = Costs(**dict.fromkeys(Costs.__struct_fields__, 0.0))
COSTS = msgspec.structs.replace(
    FREE,
    connection_us=1_000,
    request_us=200,
    login_us=1_500,
    event_us=5,
    event_database_us=5,
    event_bytes=600,
    event_log_bytes=700,
    state_bytes=400,
    poll_kb=50,
    rest_mb=100,
)
RATES, POLICY, LIMITS = Rates(), Policy(), Limits()


def test_twice_the_agents_need_twice_the_cores_and_the_disk() -> None:
    one, two = (plan(agents, RATES, COSTS, POLICY) for agents in (50_000, 100_000))
    for name in ("node_cores", "database_cores", "write_mb_per_second", "disk_tb", "hot_gb"):
        assert getattr(two, name) == pytest.approx(2 * getattr(one, name)), name


def test_an_agent_that_only_sends_batches_costs_a_connection_a_request_and_its_events() -> None:
    never = dict.fromkeys(("state_batch_seconds", "poll_wait_seconds", "token_seconds"), 1e18)
    rates = Rates(batch_seconds=10, batch_events=5, commands_a_day=0, **never)
    assert node_us(rates, COSTS) == pytest.approx((1_000 + 200 + 5 * 5) / 10)


def test_half_the_utilisation_needs_twice_the_cores() -> None:
    half = msgspec.structs.replace(POLICY, utilisation=POLICY.utilisation / 2)
    assert plan(1_000, RATES, COSTS, half).node_cores == 2 * plan(1_000, RATES, COSTS, POLICY).node_cores


def test_the_smallest_fleet_has_two_nodes_and_a_large_fleet_has_a_spare_node() -> None:
    assert plan(1, RATES, COSTS, POLICY).nodes == 2
    large = plan(1_000_000, RATES, COSTS, POLICY)
    assert (large.nodes - 1) * POLICY.cores_maximum >= large.node_cores > (large.nodes - 2) * POLICY.cores_maximum


def test_the_saturating_resource_has_the_largest_ratio() -> None:
    need = plan(10_000, RATES, COSTS, POLICY)
    first = saturating(need, LIMITS)
    assert ratios(need, LIMITS)[first] == max(ratios(need, LIMITS).values())
    plenty = msgspec.structs.replace(LIMITS, **{first: 1e12})
    assert saturating(need, plenty) != first


def test_the_number_of_agents_that_a_resource_carries_needs_its_whole_limit() -> None:
    carried = agents_carried("disk_tb", plan(1_000_000, RATES, COSTS, POLICY), LIMITS)
    assert plan(carried, RATES, COSTS, POLICY).disk_tb == pytest.approx(LIMITS.disk_tb, rel=1e-3)


def test_events_in_jetstream_only_cost_postgresql_nothing() -> None:
    in_jetstream = msgspec.structs.replace(RATES, are_events_in_postgresql=False)
    costs = msgspec.structs.replace(FREE, event_database_us=5, event_bytes=600, event_us=7)
    assert database_us(in_jetstream, costs, 5) == kept_bytes(in_jetstream, costs, POLICY) == 0
    assert node_us(in_jetstream, costs) == node_us(RATES, costs) > 0


def test_tls_at_the_balancer_saves_a_connection_for_each_request() -> None:
    costs = msgspec.structs.replace(FREE, connection_us=1_000, login_us=1_000)
    tls_ended = msgspec.structs.replace(RATES, is_tls_at_the_balancer=True)
    assert node_us(RATES, costs) > node_us(tls_ended, costs) == 0


def test_a_storm_lasts_at_least_as_long_as_serving_its_agents() -> None:
    storm = simulate(5_000, Worker(per_second=500), Outage(5, 5))
    assert 5 + 5_000 / 500 <= storm.seconds < 60
    assert storm.connections_refused > 0


def test_a_worker_with_a_short_queue_refuses_agents_and_still_serves_all_of_them() -> None:
    long, short = (simulate(3_000, Worker(500, waiting_maximum=most), Outage(5, 0)) for most in (3_000, 100))
    assert long.refusals == 0 < short.refusals
    assert short.seconds > long.seconds


def test_only_the_named_part_of_the_page_is_replaced() -> None:
    page = "a\n<!-- begin one -->\nold\n<!-- end one -->\n<!-- begin two -->\nkept\n<!-- end two -->\n"
    assert filled(page, "one", "new") == page.replace("old", "new")
    with pytest.raises(ValueError, match="three"):
        filled(page, "three", "new")
