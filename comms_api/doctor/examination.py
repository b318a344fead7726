"""Examine a deployment: this machine's files, the database, every node, and the event stream."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import func, select

from comms_api.app.certificates import AUTHORITY
from comms_api.app.node_address import find_node_name
from comms_api.cluster.model import NodeStatus
from comms_api.cluster.store import list_nodes
from comms_api.database.connect import database
from comms_api.database.failures import describe_outage, is_outage
from comms_api.database.schema import agents
from comms_api.doctor.addresses import Target, examine_target
from comms_api.doctor.database import examine_connections, examine_database
from comms_api.doctor.files import examine_files
from comms_api.doctor.model import Finding
from comms_api.doctor.nodes import examine_nodes
from comms_api.doctor.stream import examine_stream
from comms_api.errors import ConfigurationError
from comms_api.health.certificates import read_chain
from comms_api.settings import Settings

TARGETS_AT_ONCE = 16

_COUNT_AGENTS = (
    select(func.count()).select_from(agents).where(agents.c.hidden_at.is_(None), agents.c.is_blocked.is_(False))
)


class Case(msgspec.Struct, frozen=True):
    """The deployment to examine, as a node with these settings, from the file `config`, sees it.

    `urls` are the URLs that agents use, and `ca` has the authorities that they trust.
    """

    settings: Settings
    config: Path | None = None
    urls: Sequence[str] = ()
    ca: Path | None = None


async def examine(case: Case) -> Sequence[Finding]:
    """Return the result of every check; a failed check is a finding, and no error."""
    findings = [*examine_files(case.settings, case.config)]
    processes: list[NodeStatus] = []
    try:
        async for finding in _examine_shared(case.settings, processes):
            findings.append(finding)  # noqa: PERF401 - those before an outage count
    except Exception as error:
        if not (isinstance(error, ConfigurationError) or is_outage(error)):
            raise
        problem = str(error) if isinstance(error, ConfigurationError) else describe_outage(error)
        remedy = "start PostgreSQL, or correct database_url"
        findings.append(Finding("database", "connection", "error", problem, remedy))
    findings += await _examine_targets(case, processes)
    return [*findings, *[finding async for finding in examine_stream(case.settings)]]


async def _examine_shared(settings: Settings, processes: list[NodeStatus]) -> AsyncIterator[Finding]:
    """Check the database and, if it has a schema, the nodes by their heartbeats; add these to `processes`."""
    if settings.database_url is None and not (settings.data_dir / "postgres").exists():
        raise ConfigurationError(f"data_dir: there is no database in {settings.data_dir}: start the node once")
    async with database(settings) as engine:
        async for finding in examine_database(engine, settings):
            yield finding
        if finding.status == "error":
            return
        async with engine.connect() as connection:
            processes += await list_nodes(connection)
            count = await connection.scalar(_COUNT_AGENTS)
        workers = sum(process.state != "lost" for process in processes)
        yield await examine_connections(engine, max(workers, settings.workers), settings)
        for finding in examine_nodes(processes, count, settings):
            yield finding


async def _examine_targets(case: Case, processes: Sequence[NodeStatus]) -> Sequence[Finding]:
    try:
        tls = ssl.create_default_context(cafile=case.ca or _development_ca(case.settings))
    except OSError as error:
        return [Finding("addresses", f"--ca {case.ca}", "error", str(error), "pass the CA certificate in PEM")]
    slots = asyncio.Semaphore(TARGETS_AT_ONCE)

    async def examine_one(target: Target) -> Finding:
        async with slots:
            return await asyncio.to_thread(examine_target, target, tls)

    return await asyncio.gather(*map(examine_one, _find_targets(case, processes)))


def _development_ca(settings: Settings) -> Path | None:
    path = settings.certs_dir / AUTHORITY
    return path if settings.tls_certificate is None and path.exists() else None


def _find_targets(case: Case, processes: Sequence[NodeStatus]) -> Sequence[Target]:
    """Return the connections to try: the URLs of agents, and each live node's URLs with the public names."""
    settings, public_names = case.settings, [urlsplit(url).hostname or "" for url in case.urls]
    here, chain = find_node_name(settings), _served_here(settings)
    demands = settings.client_certificates == "required"
    targets = [Target(url, urlsplit(url).hostname or "", (), demands) for url in case.urls]
    live = {process.name: process for process in processes if process.state != "lost"}
    for process in live.values():
        for url, demands_certificate in ((process.agent_url, demands), (process.management_url, False)):
            names = public_names or [urlsplit(url).hostname or ""]
            expected = chain if process.name == here else ()
            targets += [Target(url, name, expected, demands_certificate) for name in names]
    return targets


def _served_here(settings: Settings) -> Sequence[bytes]:
    try:
        return [found.public_bytes(Encoding.DER) for found in read_chain(settings.certificate_path)]
    except (OSError, ValueError):
        return ()  # the check of the file says so
