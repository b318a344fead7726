"""Check the nodes by their heartbeats: which are live, and whether they agree."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from comms_api.app.secret_files import read_secret
from comms_api.cluster.model import NodeStatus
from comms_api.doctor.database import examine_clock
from comms_api.doctor.model import Finding
from comms_api.errors import ConfigurationError
from comms_api.settings import Settings

CROWDED_SHARE = 0.9
"""The share of connections that polls may take; each other request of an agent needs one as well."""


def examine_nodes(processes: Sequence[NodeStatus], agents: int, settings: Settings) -> Iterator[Finding]:
    """Check the processes of all nodes; `agents` is the number of agents that may poll."""
    live = [process for process in processes if process.state != "lost"]
    if not live:
        yield Finding("nodes", "all nodes", "error", "no node is live", "start one: comms-api serve")
        return
    yield from _examine_states(processes)
    for process in live:
        yield examine_clock(_title(process), process.skew_seconds, "its log lines are dated by a wrong clock")
    yield _examine_releases(live)
    yield _examine_secrets(live, settings)
    yield _examine_room(live, agents)


def _title(process: NodeStatus) -> str:
    return f"{process.name}/{process.worker}"


def _examine_states(processes: Sequence[NodeStatus]) -> Iterator[Finding]:
    for process in processes:
        subject = f"{_title(process)} is {process.state}"
        if process.state == "lost":
            remedy = f"start the node, or remove it from the list: comms-api cluster forget {process.name}"
            problem = f"no heartbeat for {process.silent_seconds:.0f} s"
            yield Finding("nodes", subject, "warning", problem, remedy)
        elif process.late:
            problem = f"these duties are late by up to {process.lag_seconds:g} s: {', '.join(process.late)}"
            yield Finding("nodes", subject, "warning", problem, "read the reason in the log of the node")
        elif process.state == "draining":
            remedy = f"comms-api cluster resume {process.name}"
            yield Finding("nodes", subject, "warning", "agents are sent to other nodes", remedy)
        else:
            yield Finding("nodes", subject)


def _examine_releases(live: Sequence[NodeStatus]) -> Finding:
    versions = sorted({process.version for process in live})
    if len(versions) == 1:
        return Finding("nodes", f"release {versions[0]}")
    return Finding(
        "nodes", f"releases {', '.join(versions)}", "warning", "the nodes differ", "upgrade the nodes one after another"
    )


def _examine_secrets(live: Sequence[NodeStatus], settings: Settings) -> Finding:
    """Compare the fingerprints of the secrets; nodes of older releases report none."""
    holders: dict[str, set[str]] = defaultdict(set)
    for process in live:
        holders[process.secret_fingerprint].add(process.name)
    holders.pop("", None)
    try:
        holders[read_secret(settings).fingerprint].add(str(settings.secret_path))
    except ConfigurationError as error:
        return Finding("secret", "all nodes", "error", str(error), "copy the file of another node, with mode 600")
    subject = f"fingerprint {', '.join(sorted(holders))}"
    if len(holders) == 1:
        return Finding("secret", subject)
    groups = "; ".join(f"{', '.join(sorted(names))}: {digest}" for digest, names in sorted(holders.items()))
    remedy = "copy one node's file to all nodes, and restart the nodes one after another"
    return Finding("secret", subject, "error", f"the nodes have different secrets: {groups}", remedy)


def _examine_room(live: Sequence[NodeStatus], agents: int) -> Finding:
    room = sum(process.connections_maximum for process in live)
    subject = f"{agents} agents, room for {room} connections"
    if not room or agents <= room * CROWDED_SHARE:
        return Finding("open files", subject)
    problem = "the limit of open files leaves too little room for the polls of all agents"
    remedy = "raise LimitNOFILE of the service (or ulimit -n), or add a node"
    return Finding("open files", subject, "error" if agents > room else "warning", problem, remedy)
