"""The checks of a node.

Only a failed check is a reason for agents to use another node. A dependency that all nodes share, such as the event
stream, causes a warning instead.
"""

import asyncio
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from comms_api.cluster.membership import Membership
from comms_api.database.connection import Engine
from comms_api.database.liveness import LOST_AFTER_SECONDS
from comms_api.database.revisions import find_revision, newest_revision
from comms_api.duties.health import DutyHealth
from comms_api.health.certificates import EXPIRES_SOON, ServedCertificate
from comms_api.health.model import HealthCheck
from comms_api.health.readiness import Probe

HEARTBEAT = "heartbeat"
SINK_DUTIES = ("event stream", "events writer", "small events writer")
FREE_BYTES_MINIMUM = 2**30


def node_probes(  # noqa: PLR0913 - a report joins these parts
    engine: Engine,
    membership: Membership,
    duties: DutyHealth,
    certificate: ServedCertificate,
    data_dir: Path,
    now: Callable[[], float],
) -> Sequence[Probe]:
    """Return the checks of a node, in the order in which a report shows them."""
    checks = {
        "node": partial(_check_node, membership),
        "database": partial(_check_database, membership, duties),
        "schema": partial(_check_schema, engine, newest_revision()),
        "sink": partial(_check_sink, duties),
        "duties": partial(_check_duties, duties),
        "disk": partial(_check_disk, data_dir),
        "certificate": partial(_check_certificate, certificate, now),
    }
    return [Probe(name, examine) for name, examine in checks.items()]


async def _check_node(membership: Membership) -> HealthCheck:
    return HealthCheck("node", "fail", "the node drains") if membership.is_draining else HealthCheck("node")


async def _check_database(membership: Membership, duties: DutyHealth) -> HealthCheck:
    trouble = duties.troubles().get(HEARTBEAT, "")
    if membership.silent_seconds < LOST_AFTER_SECONDS:
        return HealthCheck("database", "warn" if trouble else "pass", trouble)
    silence = f"no heartbeat was stored for {membership.silent_seconds:.0f} s"
    return HealthCheck("database", "fail", f"{silence}: {trouble}" if trouble else silence)


async def _check_schema(engine: Engine, newest: str) -> HealthCheck:
    async with engine.connect() as connection:
        revision = await find_revision(connection)
    if revision is None or revision < newest:  # revisions are numbered, and a newer schema only has additions
        reason = f"the schema is at revision {revision}, but this release needs {newest}: run comms-api migrate"
        return HealthCheck("schema", "fail", reason)
    return HealthCheck("schema")


async def _check_sink(duties: DutyHealth) -> HealthCheck:
    troubles = duties.troubles()
    trouble = "; ".join(troubles[name] for name in SINK_DUTIES if name in troubles)
    return HealthCheck("sink", "warn" if trouble else "pass", trouble)


async def _check_duties(duties: DutyHealth) -> HealthCheck:
    troubles = duties.troubles()
    late = [
        f"{name} is late by {report.lag_seconds:g} s: {troubles.get(name, 'its last pass has not ended')}"
        for name, report in duties.report().items()
        if report.lag_seconds
    ]
    return HealthCheck("duties", "warn" if late else "pass", "; ".join(late))


async def _check_disk(data_dir: Path) -> HealthCheck:
    free_bytes = await asyncio.to_thread(lambda: shutil.disk_usage(data_dir).free)
    trouble = find_lack_of_space(data_dir, free_bytes)
    return HealthCheck("disk", "warn" if trouble else "pass", trouble)


def find_lack_of_space(folder: Path, free_bytes: int) -> str:
    """Return why the file system of a folder is too full; empty if it has room."""
    if free_bytes >= FREE_BYTES_MINIMUM:
        return ""
    return f"the file system of {folder} has {free_bytes >> 20} MiB left; free at least {FREE_BYTES_MINIMUM >> 20} MiB"


async def _check_certificate(certificate: ServedCertificate, now: Callable[[], float]) -> HealthCheck:
    if certificate.expires_at is None:
        return HealthCheck("certificate", "warn", certificate.trouble)
    left = certificate.expires_at - datetime.fromtimestamp(now(), UTC)
    if left >= EXPIRES_SOON:
        return HealthCheck("certificate")
    reason = f"the chain is valid until {certificate.expires_at:%Y-%m-%dT%H:%M:%SZ}: renew it, and send SIGHUP"
    return HealthCheck("certificate", "warn" if left.total_seconds() > 0 else "fail", reason)
