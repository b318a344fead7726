"""Health on both APIs: details for signed-in users of the management API, the status for everybody."""

from typing import Any

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec

from comms_api.health.model import Health, HealthReport
from comms_api.health.readiness import Readiness
from comms_api.http.authentication import PUBLIC, PUBLIC_OR_TOKEN, subject_of
from comms_api.http.request import AnyRequest
from comms_api.http.roles import ANYONE

RETRY_AFTER_SECONDS = 5
_UNREADY = {503: ResponseSpec(HealthReport, description="agents should use another node", generate_examples=False)}


@get("/health/live", opt=PUBLIC)
async def check_liveness() -> Health:
    """Return `pass`: the process answers. A supervisor should restart a process that does not answer for a minute."""
    return Health("pass")


@get("/health/ready", opt=PUBLIC, responses=_UNREADY)
async def show_status(readiness: NamedDependency[Readiness]) -> Response[Health]:
    """Return whether agents should connect here: `pass` and `warn` are 200, `fail` is 503."""
    return _answer(Health((await readiness.report()).status))


@get("/health/ready", opt=PUBLIC_OR_TOKEN | ANYONE, responses=_UNREADY)
async def show_readiness(request: AnyRequest, readiness: NamedDependency[Readiness]) -> Response[HealthReport]:
    """Return whether agents should connect here: `pass` and `warn` are 200, `fail` is 503. Users also get the checks.

    The checks are `node` (fails while the node drains), `database`, `schema`, `sink`, `duties`, `disk` and
    `certificate`. They run at most about once a second.
    """
    report = await readiness.report()
    return _answer(report if subject_of(request.scope) else HealthReport(report.status))


def _answer(health: Any) -> Response[Any]:
    if health.status == "fail":
        return Response(health, status_code=503, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})
    return Response(health)


AGENT_ROUTES = [check_liveness, show_status]
MANAGEMENT_ROUTES = [check_liveness, show_readiness]
