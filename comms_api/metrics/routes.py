"""The management API's metrics."""

from litestar import Response, get
from litestar.di import NamedDependency

from comms_api.http.authentication import BASIC, SCRAPED
from comms_api.http.roles import READ
from comms_api.metrics.service import Metrics

MEDIA_TYPE = "text/plain; version=0.0.4"
"""Litestar adds the charset."""


@get("/metrics", opt=READ | BASIC | SCRAPED, media_type=MEDIA_TYPE)
async def show_metrics(metrics: NamedDependency[Metrics]) -> Response[bytes]:
    """Return the metrics of all workers of this node in Prometheus' text format.

    It needs the token, or the name and password, of a user who may read; or an address in `metrics_networks`.
    """
    return Response(await metrics.scrape(), media_type=MEDIA_TYPE)


ROUTES = [show_metrics]
