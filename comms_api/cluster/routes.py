"""Readiness on both APIs; the nodes on the management API."""

from collections.abc import Sequence

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from comms_api.cluster.membership import Membership
from comms_api.cluster.model import ForgottenNode, NodeAgents, NodeStatus, RebalancedProcess, RequestedState
from comms_api.cluster.service import Cluster
from comms_api.http.authentication import PUBLIC
from comms_api.http.roles import ADMINISTER, OPERATE, READ

RETRY_AFTER_SECONDS = 5


@get("/ready", status_code=200, opt=PUBLIC)
async def check_readiness(membership: NamedDependency[Membership]) -> Response[bytes]:
    """Tell a load balancer whether to send agents here: 200, or 503 while the node drains or the others miss it."""
    if membership.is_ready:
        return Response(b"", media_type="text/plain")
    return Response(b"", status_code=503, media_type="text/plain", headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


@get("/nodes", opt=READ)
async def list_nodes(cluster: NamedDependency[Cluster]) -> Sequence[NodeStatus]:
    """List the processes of all nodes by name; one that is silent for some seconds is lost, and an hour later gone."""
    return await cluster.list()


@get("/nodes/agents", opt=READ)
async def count_agents(cluster: NamedDependency[Cluster]) -> Sequence[NodeAgents]:
    """Count the active agents by the node that saw them last; `GET /agents?node=` lists those of one."""
    return await cluster.count_agents()


@post("/nodes/{name:str}/drain", status_code=200, opt=OPERATE)
async def drain_node(name: FromPath[str], cluster: NamedDependency[Cluster]) -> RequestedState:
    """Have a node send its agents elsewhere: it is not ready, and answers polls at once. It goes on serving."""
    return await cluster.want(name, "draining")


@post("/nodes/{name:str}/resume", status_code=200, opt=OPERATE)
async def resume_node(name: FromPath[str], cluster: NamedDependency[Cluster]) -> RequestedState:
    """Have a node take agents again."""
    return await cluster.want(name, "active")


@post("/nodes/{name:str}/forget", status_code=200, opt=ADMINISTER)
async def forget_node(name: FromPath[str], cluster: NamedDependency[Cluster]) -> ForgottenNode:
    """Remove the lost processes of a node from the list; one that beats again is there again."""
    return await cluster.forget(name)


@post("/nodes/rebalance", status_code=200, opt=OPERATE)
async def rebalance_nodes(cluster: NamedDependency[Cluster]) -> Sequence[RebalancedProcess]:
    """Have nodes with over 10 % more polls than the mean end some, a few a second for a minute at most."""
    return await cluster.rebalance()


ROUTES = [list_nodes, count_agents, drain_node, resume_node, forget_node, rebalance_nodes]
