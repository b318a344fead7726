"""A rollout releases orders within every bound at every step, and it ends."""

from hypothesis import given
from hypothesis import strategies as st

from comms_api.commands.rollout import Rollout, RolloutProgress, credit_after, excess_failures, releasable

ROLLOUTS = st.builds(
    Rollout,
    percent=st.none() | st.floats(1, 100),
    per_minute=st.none() | st.floats(1, 6_000),
    max_in_flight=st.none() | st.integers(1, 50),
)


@given(rollout=ROLLOUTS, total=st.integers(1, 300), answers=st.lists(st.integers(0, 60), max_size=400))
def test_every_bound_holds_at_every_step_and_all_orders_are_released_in_the_end(
    rollout: Rollout, total: int, answers: list[int]
) -> None:
    held, in_flight, credit, seconds = total, 0, 1.0, 0
    steps = iter(answers)
    while held:
        seconds += 1
        credit = credit_after(rollout, credit, 1)
        released = releasable(rollout, RolloutProgress(total, held, in_flight, 0, 0, 0, credit))
        assert 0 <= released <= held
        held, in_flight, credit = held - released, in_flight + released, credit - released
        if rollout.max_in_flight is not None:
            assert in_flight <= rollout.max_in_flight
        if rollout.per_minute is not None:
            assert total - held <= 1 + max(1.0, rollout.per_minute * seconds / 60) + 1
        if rollout.percent is not None:
            assert in_flight <= max(1, -(-total * rollout.percent // 100)) + 1
        in_flight -= min(in_flight, next(steps, in_flight))
        assert seconds < 60 * total + len(answers) + 60, "it never ends"


def test_a_stage_waits_for_the_last_order_of_the_previous_stage() -> None:
    tenth = Rollout(percent=10)
    assert releasable(tenth, RolloutProgress(100, 100, 0, 0, 0, 0, 0)) == 10
    assert releasable(tenth, RolloutProgress(100, 90, 1, 9, 0, 0, 0)) == 0
    assert releasable(tenth, RolloutProgress(100, 90, 0, 10, 0, 0, 0)) == 10
    assert releasable(tenth, RolloutProgress(100, 95, 5, 0, 0, 0, 0)) == 5
    assert releasable(tenth, RolloutProgress(3, 3, 0, 0, 0, 0, 0)) == 1


def test_a_rate_saves_up_at_most_one_minute() -> None:
    rate = Rollout(per_minute=120)
    assert credit_after(rate, 0, 1) == 2
    assert credit_after(rate, 0, 3600) == 120
    assert releasable(rate, RolloutProgress(1000, 1000, 0, 0, 0, 0, 2.9)) == 2


def test_failures_stop_a_rollout_once_enough_orders_have_ended_or_no_more_can_end() -> None:
    wary = Rollout(failure_ratio=0.2, failures_after=10)
    assert excess_failures(wary, RolloutProgress(100, 90, 6, 4, 4, 0, 0)) is None
    assert excess_failures(wary, RolloutProgress(100, 90, 0, 4, 4, 0, 0)) is not None
    assert excess_failures(wary, RolloutProgress(100, 80, 10, 10, 2, 0, 0)) is None
    reason = excess_failures(wary, RolloutProgress(100, 80, 10, 10, 3, 0, 0))
    assert reason == "3 of 10 orders failed, more than the ratio 0.2 allows"
    assert excess_failures(Rollout(), RolloutProgress(100, 0, 0, 100, 100, 0, 0)) is None
