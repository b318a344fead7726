"""Readiness on both APIs; the nodes on the management API."""

from collections.abc import Sequence

from litestar import MediaType, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from comms_api.cluster.membership import Membership
from comms_api.cluster.model import ForgottenNode, NodeAgents, NodeStatus, RebalancedProcess, RequestedState
from comms_api.cluster.service import Cluster
from comms_api.http.authentication import PUBLIC
from comms_api.http.roles import ADMINISTER, OPERATE, READ

RETRY_AFTER_SECONDS = 5


@get("/ready", status_code=200, opt=PUBLIC, media_type=MediaType.TEXT)
async def check_readiness(membership: NamedDependency[Membership]) -> Response[bytes]:
    """Return whether a load balancer should send agents here: 200, or 503 while the node drains or seems lost."""
    if membership.is_ready:
        return Response(b"")
    return Response(b"", status_code=503, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


@get("/nodes", opt=READ)
async def list_nodes(cluster: NamedDependency[Cluster]) -> Sequence[NodeStatus]:
    """List the processes of all nodes by name. One is `lost` 6 s after its last heartbeat and removed after an hour."""
    return await cluster.list()


@get("/nodes/agents", opt=READ)
async def count_agents(cluster: NamedDependency[Cluster]) -> Sequence[NodeAgents]:
    """Count the active agents by the node that saw them last; `GET /agents?node=` lists the agents of one node."""
    return await cluster.count_agents()


@post("/nodes/{name:str}/drain", status_code=200, opt=OPERATE)
async def drain_node(name: FromPath[str], cluster: NamedDependency[Cluster]) -> RequestedState:
    """Drain a node: it is not ready, and answers polls at once so that agents go to other nodes. It still serves."""
    return await cluster.request_state(name, "draining")


@post("/nodes/{name:str}/resume", status_code=200, opt=OPERATE)
async def resume_node(name: FromPath[str], cluster: NamedDependency[Cluster]) -> RequestedState:
    """Let a node accept agents again."""
    return await cluster.request_state(name, "active")


@post("/nodes/{name:str}/forget", status_code=200, opt=ADMINISTER)
async def forget_node(name: FromPath[str], cluster: NamedDependency[Cluster]) -> ForgottenNode:
    """Remove the lost processes of a node from the list. A process that sends a heartbeat again is listed again."""
    return await cluster.forget(name)


@post("/nodes/rebalance", status_code=200, opt=OPERATE)
async def rebalance_nodes(cluster: NamedDependency[Cluster]) -> Sequence[RebalancedProcess]:
    """Make processes with over 10 % more polls than the mean end some of them: a few a second, for a minute at most."""
    return await cluster.rebalance()


ROUTES = [list_nodes, count_agents, drain_node, resume_node, forget_node, rebalance_nodes]
