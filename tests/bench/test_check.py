"""When a measured figure counts as fallen against the committed ones."""

import pytest

from bench.check import FIGURES, best_of, calibrated, fallen, has_fallen
from bench.figures import Figure

RATIO = Figure("stateless_vs_copy", 0.85, 1.2, "ratio")
MEMORY = Figure("rest_mb", 60, 40, "MB", is_most=True)


@pytest.mark.parametrize(("value", "expected"), [(69, True), (71, False), (140, False)])
def test_a_figure_that_should_be_large_has_fallen_when_it_lost_more_than_30_percent(
    value: float,
    expected: bool,  # noqa: FBT001 - a parameter of a test
) -> None:
    assert has_fallen(RATIO, value, 100) is expected


@pytest.mark.parametrize(("value", "expected"), [(131, True), (129, False), (60, False)])
def test_a_figure_that_should_be_small_has_fallen_when_it_grew_by_more_than_30_percent(
    value: float,
    expected: bool,  # noqa: FBT001 - a parameter of a test
) -> None:
    assert has_fallen(MEMORY, value, 100) is expected


def test_only_what_has_fallen_is_named() -> None:
    assert fallen([RATIO, MEMORY], {RATIO.key: 0.5, MEMORY.key: 50}, {RATIO.key: 1.0, MEMORY.key: 50}) == [RATIO]


def test_a_cost_on_a_machine_of_half_the_speed_is_the_same() -> None:
    assert calibrated({"login": 4000}, 0.2) == calibrated({"login": 2000}, 0.1)


def test_a_turn_beside_a_neighbour_does_not_count() -> None:
    assert best_of([{"login": 3, "event": 9}, {"login": 5, "event": 8}]) == {"login": 3, "event": 8}


def test_a_check_against_figures_that_were_twice_as_good_fails_and_names_them() -> None:
    baseline = dict.fromkeys((figure.key for figure in FIGURES), 1.0)
    run = baseline | {"logins_cost": 2.0}
    assert [figure.key for figure in fallen(FIGURES, run, baseline)] == ["logins_cost"]
