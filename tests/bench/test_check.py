"""A figure that is more than 30 % worse than the committed one fails the check."""

import pytest

from bench.check import FIGURES, best_of, calibrated, fallen, has_fallen
from bench.figures import Figure

RATIO = Figure("stateless_vs_copy", 0.85, 1.2, "ratio")
MEMORY = Figure("rest_mb", 60, 40, "MB", is_most=True)


@pytest.mark.parametrize(("value", "expected"), [(69, True), (71, False), (140, False)])
def test_a_figure_whose_limit_is_a_minimum_has_fallen_below_70_percent_of_the_baseline(
    value: float,
    expected: bool,  # noqa: FBT001 - a parameter of a test
) -> None:
    assert has_fallen(RATIO, value, 100) is expected


@pytest.mark.parametrize(("value", "expected"), [(131, True), (129, False), (60, False)])
def test_a_figure_whose_limit_is_a_maximum_has_fallen_above_130_percent_of_the_baseline(
    value: float,
    expected: bool,  # noqa: FBT001 - a parameter of a test
) -> None:
    assert has_fallen(MEMORY, value, 100) is expected


def test_only_fallen_figures_are_named() -> None:
    assert fallen([RATIO, MEMORY], {RATIO.key: 0.5, MEMORY.key: 50}, {RATIO.key: 1.0, MEMORY.key: 50}) == [RATIO]


def test_a_calibrated_cost_is_the_same_on_a_machine_of_half_the_speed() -> None:
    assert calibrated({"login": 4000}, 0.2) == calibrated({"login": 2000}, 0.1)


def test_only_the_lowest_cost_of_all_turns_counts() -> None:
    assert best_of([{"login": 3, "event": 9}, {"login": 5, "event": 8}]) == {"login": 3, "event": 8}


def test_a_cost_that_has_doubled_is_named() -> None:
    baseline = dict.fromkeys((figure.key for figure in FIGURES), 1.0)
    run = baseline | {"logins_cost": 2.0}
    assert [figure.key for figure in fallen(FIGURES, run, baseline)] == ["logins_cost"]
