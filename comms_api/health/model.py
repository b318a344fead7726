"""The health of a process, in the terms of the draft "Health Check Response Format for HTTP APIs"."""

from collections.abc import Sequence
from typing import Literal

import msgspec

HealthStatus = Literal["pass", "warn", "fail"]
SEVERITY: Sequence[HealthStatus] = ("pass", "warn", "fail")


class Health(msgspec.Struct, frozen=True):
    """`pass`, `warn`: agents should connect here, but a check has a finding; `fail`: they should use another node."""

    status: HealthStatus


class HealthCheck(msgspec.Struct, frozen=True):
    """The result of a check; `reason` describes the problem, and is empty without one."""

    name: str
    status: HealthStatus = "pass"
    reason: str = ""


class HealthReport(Health, frozen=True, omit_defaults=True):
    """The health of a process. Its checks are shown to signed-in users only."""

    checks: list[HealthCheck] = []


def worst_of(checks: Sequence[HealthCheck]) -> HealthStatus:
    """Return the most severe status of the checks."""
    return max((check.status for check in checks), key=SEVERITY.index)
