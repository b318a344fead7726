"""Long computations run in steps."""

from comms_api.fairness.slices import RELEASED_ITEMS, release


def test_lists_are_emptied_in_steps() -> None:
    lists = [list(range(size)) for size in (0, 1, 2 * RELEASED_ITEMS + 1)]
    left = sum(map(len, lists))
    for _ in release(*lists):
        released, left = left - sum(map(len, lists)), sum(map(len, lists))
        assert 0 < released <= RELEASED_ITEMS
    assert lists == [[], [], []]
