"""Recent values are few and not old."""

import pytest

from comms_api.fairness import recent
from comms_api.fairness.recent import Recent


class Clock:
    """A clock that tests advance."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_the_memory_is_bounded_and_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "VALUES_MAXIMUM", 3)
    clock = Clock()
    values = Recent[int, str](10, clock)
    for number in range(5):
        values.remember(number, "value")
    assert [values.find(number) is None for number in range(5)] == [True, True, False, False, False]
    values.forget(2)
    assert values.find(2) is None
    clock.seconds = 10.0
    assert all(values.find(number) is None for number in range(5))
    assert len(values) == 0
