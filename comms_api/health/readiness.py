"""Check the dependencies of this process on demand, at most about once a second, whoever asks and however often."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from comms_api.database.failures import describe_outage
from comms_api.health.model import HealthCheck, HealthReport, worst_of

REPORT_SECONDS = 1.0
"""A report is shown for this long before the next one is made."""

CHECK_SECONDS = 2.0
"""A report waits this long for a check. The check continues, and the next report waits for the same check."""

Examine: TypeAlias = Callable[[], Awaitable[HealthCheck]]


class Probe:
    """A check that may hang, because a dependency does; it never runs twice at once."""

    def __init__(self, name: str, examine: Examine) -> None:
        self.name = name
        self._examine = examine
        self._running: asyncio.Future[HealthCheck] | None = None

    async def check(self) -> HealthCheck:
        """Return the result of the check, or a warning if it fails or takes too long."""
        if self._running is None:
            self._running = asyncio.ensure_future(self._examine())
        running = self._running
        await asyncio.wait([running], timeout=CHECK_SECONDS)
        if not running.done():
            return HealthCheck(self.name, "warn", f"the check has not ended within {CHECK_SECONDS:g} s")
        self._running = None
        try:
            return running.result()
        except Exception as error:  # noqa: BLE001 - the reader of the report sees it
            return HealthCheck(self.name, "warn", f"the check has failed: {describe_outage(error)}")


class Readiness:
    """Whether agents should connect to this process, and the reasons."""

    def __init__(self, probes: Sequence[Probe]) -> None:
        self._probes = probes
        self._reporting: asyncio.Task[HealthReport] | None = None
        self._made_at = 0.0

    async def report(self) -> HealthReport:
        """Return a report that is at most about a second old; all callers share it."""
        now = asyncio.get_running_loop().time
        if self._reporting is None or (self._reporting.done() and now() - self._made_at >= REPORT_SECONDS):
            self._reporting = asyncio.create_task(self._report())
        return await asyncio.shield(self._reporting)

    async def _report(self) -> HealthReport:
        checks = await asyncio.gather(*(probe.check() for probe in self._probes))
        self._made_at = asyncio.get_running_loop().time()
        return HealthReport(worst_of(checks), checks)
