"""The nodes of the cluster: their processes, and what operators can request of them."""

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from comms_api.cluster.model import NodeStatus
from comms_api.cluster.service import Cluster
from comms_api.console.live import live
from comms_api.console.rendering import notify, render
from comms_api.console.summary import Overview
from comms_api.http.request import AnyRequest
from comms_api.http.roles import ADMINISTER, OPERATE, READ


class Node(msgspec.Struct, frozen=True):
    """A node: its processes, and the number of active agents that it saw last."""

    name: str
    processes: Sequence[NodeStatus]
    agents: int

    @property
    def polls(self) -> int:
        """The held polls of all its processes."""
        return sum(process.polls for process in self.processes)

    @property
    def is_draining(self) -> bool:
        """Whether an operator has requested that agents leave it."""
        return any(process.wanted_state == "draining" for process in self.processes)

    @property
    def is_lost(self) -> bool:
        """Whether none of its processes sends heartbeats."""
        return all(process.state == "lost" for process in self.processes)


@get("/console/nodes", opt=READ)
@live
async def list_nodes(
    request: AnyRequest, cluster: NamedDependency[Cluster], overview: NamedDependency[Overview]
) -> Response[bytes]:
    """List the nodes with their processes."""
    agents = (await overview.read()).agents.nodes
    by_name = groupby(await cluster.list(), attrgetter("name"))
    nodes = [Node(name, list(processes), agents.get(name, 0)) for name, processes in by_name]
    return render(request, "nodes.html", nodes=nodes)


@post("/console/nodes/{name:str}/drain", opt=OPERATE, status_code=200)
async def drain_node(request: AnyRequest, name: FromPath[str], cluster: NamedDependency[Cluster]) -> Response[bytes]:
    """Make the agents of a node use other nodes."""
    await cluster.request_state(name, "draining")
    return notify(request, f"{name} drains: its agents are sent to other nodes within seconds.")


@post("/console/nodes/{name:str}/resume", opt=OPERATE, status_code=200)
async def resume_node(request: AnyRequest, name: FromPath[str], cluster: NamedDependency[Cluster]) -> Response[bytes]:
    """Let a node accept agents again."""
    await cluster.request_state(name, "active")
    return notify(request, f"{name} accepts agents again.")


@post("/console/nodes/{name:str}/forget", opt=ADMINISTER, status_code=200)
async def forget_node(request: AnyRequest, name: FromPath[str], cluster: NamedDependency[Cluster]) -> Response[bytes]:
    """Remove the lost processes of a node from the list."""
    forgotten = await cluster.forget(name)
    return notify(request, f"{forgotten.workers} lost processes of {name} are removed from the list.")


@post("/console/nodes/rebalance", opt=OPERATE, status_code=200)
async def rebalance_nodes(request: AnyRequest, cluster: NamedDependency[Cluster]) -> Response[bytes]:
    """Spread the polls evenly over the processes."""
    crowded = await cluster.rebalance()
    if not crowded:
        return notify(request, "No process holds over 10 % more polls than the mean.")
    return notify(request, f"{len(crowded)} processes send some of their agents to others, for a minute at most.")


ROUTES = [list_nodes, drain_node, resume_node, forget_node, rebalance_nodes]
