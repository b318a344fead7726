"""The number of agents over time: `--shape` steady, storm or soak; `-u`, `-r` and `-t` keep their meaning."""

from collections.abc import Callable

from locust import LoadTestShape

from fleet.operators import Operator

SECONDS = {"steady": 60, "storm": 90, "soak": 3600}
"""The duration of each shape without `-t`."""


class Fleet(LoadTestShape):
    """The shape of the option `--shape`."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """Return the current number of users, and how many may start or stop per second."""
        options = self.runner.environment.parsed_options
        seconds = float(options.run_time or SECONDS[options.shape])
        if self.get_run_time() >= seconds:
            return None
        shapes: dict[str, Callable[[int, float, float], tuple[int, float]]] = {
            "steady": self._steady,
            "storm": self._storm,
            "soak": self._soak,
        }
        count, rate = shapes[options.shape](options.num_users, seconds, options.spawn_rate)
        return (count + Operator.fixed_count if count else 0), rate

    def _steady(self, agents: int, _seconds: float, rate: float) -> tuple[int, float]:
        """All agents, for the whole run."""
        return agents, rate

    def _storm(self, agents: int, seconds: float, rate: float) -> tuple[int, float]:
        """All agents leave after a third of the time, and return within a second after the outage."""
        outage = self.runner.environment.parsed_options.outage_seconds
        now, start = self.get_run_time(), seconds / 3
        if now < start:
            return agents, rate
        return (0 if now < start + outage else agents), float(agents + Operator.fixed_count)

    def _soak(self, agents: int, seconds: float, rate: float) -> tuple[int, float]:
        """Half of the agents, slowly growing to all at half-time; from then on memory should not grow."""
        grown = min(1.0, 0.5 + self.get_run_time() / seconds)
        return max(1, int(agents * grown)), rate
