"""The first page: the state of the fleet, and what needs attention."""

from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency

from comms_api.cluster.model import NodeStatus
from comms_api.console.live import live
from comms_api.console.rendering import render
from comms_api.console.summary import Overview, Summary
from comms_api.http.request import AnyRequest
from comms_api.http.roles import READ


class Attention(msgspec.Struct, frozen=True):
    """Something that an operator should look at, and the page that shows it."""

    kind: str
    sentence: str
    path: str


def attention_of(summary: Summary) -> Iterator[Attention]:
    """Yield what needs attention, the most important first."""
    for node in summary.nodes:
        yield from _attention_of_node(node)
    if clones := summary.agents.clones:
        sentence = f"{clones} agents run on two machines at once."
        yield Attention("bad", sentence, "/console/agents?clones=proved")
    if summary.orders.failure:
        sentence = f"{summary.orders.failure} orders of the last hour have failed."
        yield Attention("warn", sentence, "/console/orders?status=failure")
    if disconnected := summary.agents.statuses.get("disconnected", 0):
        yield Attention("warn", f"{disconnected} agents are disconnected.", "/console/agents?status=disconnected")


def _attention_of_node(node: NodeStatus) -> Iterator[Attention]:
    name = f"{node.name}, process {node.worker}"
    if node.state == "lost":
        yield Attention("bad", f"{name} is lost: no heartbeat for {node.silent_seconds:.0f} s.", "/console/nodes")
    elif node.state == "draining":
        yield Attention("warn", f"{name} drains: agents go to other nodes.", "/console/nodes")
    elif node.late:
        yield Attention("warn", f"{name}: late duties: {', '.join(node.late)}.", "/console/nodes")


@get("/console", opt=READ)
@live
async def show_overview(request: AnyRequest, overview: NamedDependency[Overview]) -> Response[bytes]:
    """Show the state of the fleet."""
    summary = await overview.read()
    return render(
        request, "overview.html", summary=summary, attention=list(attention_of(summary)), read_at=datetime.now(UTC)
    )


ROUTES = [show_overview]
