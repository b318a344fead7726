"""The first page: the state of the fleet, and what needs attention."""

from litestar import Response, get
from litestar.di import NamedDependency

from comms_api.cluster.service import Cluster
from comms_api.console.rendering import render
from comms_api.http.request import AnyRequest
from comms_api.http.roles import READ


@get("/console", opt=READ)
async def show_overview(request: AnyRequest, cluster: NamedDependency[Cluster]) -> Response[bytes]:
    """Show the state of the fleet."""
    return render(request, "overview.html", nodes=await cluster.list())


ROUTES = [show_overview]
