"""Serve one node's two apps over TLS in one event loop, and drain on SIGTERM."""

import asyncio
import ctypes
import gc
import logging
import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from importlib import import_module
from typing import Any

import msgspec
import uvloop

from comms_api.app.apis import agent_api, management_api
from comms_api.app.capacity import capacity_of
from comms_api.app.certificates import Certificate, check_pair
from comms_api.app.hypercorn_server import Loop, Site, serve
from comms_api.app.listeners import Listeners
from comms_api.app.metering.worker import Metering, metered
from comms_api.app.node import Node, open_node
from comms_api.app.systemd import NOBODY, ServiceManager
from comms_api.cluster.model import NodeProcess
from comms_api.database.connect import Address, open_engine
from comms_api.database.failures import explain_outage
from comms_api.duties.health import DutyHealth
from comms_api.duties.repeating import Duty, repeating
from comms_api.errors import ConfigurationError
from comms_api.fairness.executors import let_threads_switch_often
from comms_api.health.certificates import ServedCertificate
from comms_api.http.access_log import log_access
from comms_api.http.authentication import client_of
from comms_api.http.problems import log_cut_off
from comms_api.http1.endpoint import Accounting
from comms_api.metrics.snapshots import Snapshots
from comms_api.settings import Settings
from comms_api.spans import Tracer
from comms_api.tokens.secret import Secret

logger = logging.getLogger(__name__)

TRACING = "comms_api.app.tracing"
"""Needs OpenTelemetry, so it is imported only for the setting `traces`."""

PARENT_SECONDS = 1.0
M_MMAP_THRESHOLD = -3  # malloc.h
MAPPED_BLOCK_BYTES = 64 * 1024
FLUSH_SECONDS = 0.3
"""The time in which the last answers must leave the process."""


class Worker(msgspec.Struct, frozen=True):
    """The parts of a worker process; its database has been prepared."""

    database: Address
    secret: Secret
    certificate: Certificate
    settings: Settings
    node_process: NodeProcess
    snapshots: Snapshots
    manager: ServiceManager = NOBODY


def run_worker(
    worker: Worker,
    listeners: Listeners,
    ready: Callable[[], None],
    has_parent: Callable[[], bool] = lambda: True,
) -> None:
    """Serve in this process until SIGTERM, SIGINT (or the death of the supervisor); calls `ready` when it serves."""
    map_large_blocks()
    let_threads_switch_often()
    uvloop.run(_run(worker, listeners, ready, has_parent), loop_factory=Loop)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the process is ending already


def map_large_blocks() -> None:
    """Make glibc return the buffers of each TLS connection to the system when they are freed."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # only glibc has it
        mallopt(M_MMAP_THRESHOLD, MAPPED_BLOCK_BYTES)


async def _run(worker: Worker, listeners: Listeners, ready: Callable[[], None], has_parent: Callable[[], bool]) -> None:
    stopping = asyncio.Event()

    def stop() -> None:
        worker.manager.notify("STOPPING=1")
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    engine = open_engine(worker.database.url, worker.settings)

    async def check_parent() -> None:
        if not has_parent():
            stopping.set()

    health = DutyHealth(explain_outage)
    # Opening and closing the node needs the database's duties.
    duties = [*worker.database.duties(), *worker.manager.duties(), Duty("supervisor", check_parent, PARENT_SECONDS)]
    with _open_tracer(worker) as tracer:
        try:
            async with (
                repeating(duties, health),
                open_node(engine, worker.secret, worker.settings, worker.node_process, health, tracer) as node,
                metered(node, engine, health, worker.node_process.worker, worker.snapshots) as metering,
            ):
                await _serve(node, metering, listeners, worker.certificate, stopping, ready)
        finally:
            await engine.dispose()


def check_traces(settings: Settings) -> None:
    """Raise `ConfigurationError` if the settings ask for traces, and OpenTelemetry is not installed."""
    if settings.traces:
        try:
            import_module(TRACING)
        except ImportError as error:
            raise ConfigurationError(f"traces: {error}: pip install 'comms-api[otel]'") from error


def _open_tracer(worker: Worker) -> AbstractContextManager[Tracer | None]:
    if not worker.settings.traces:
        return nullcontext()
    tracer: AbstractContextManager[Tracer] = import_module(TRACING).open_tracer(worker.node_process)
    return tracer


async def _serve(  # noqa: PLR0913 - the parts of a worker that serves
    node: Node,
    metering: Metering,
    listeners: Listeners,
    certificate: Certificate,
    stopping: asyncio.Event,
    ready: Callable[[], None],
) -> None:
    """Serve until `stopping`; then answer the held polls, finish the requests in progress, and return."""
    drained, sites = asyncio.Event(), _sites(node, metering, listeners, certificate)
    gc.collect()
    gc.freeze()  # the apps live as long as the process: a collection that visited them would take 20 ms
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _renew_certificate, sites, node.certificate)
    listeners.listen()  # clients that connect before the servers start wait in the backlog
    servers = [asyncio.create_task(serve(site, drained)) for site in sites]
    ready()
    await asyncio.wait([asyncio.create_task(stopping.wait()), *servers], return_when=asyncio.FIRST_COMPLETED)
    listeners.close()  # new connections should go to another node from now on
    node.membership.stop()
    node.watch.drain()
    node.event_tail.drain()
    node.fleet_followers.drain()
    drained.set()
    with suppress(TimeoutError):
        async with asyncio.timeout(node.settings.drain_seconds):
            await node.membership.requests.wait_until_idle()
    # Without this limit, a server would wait for idle connections whose clients are slow to close them.
    await asyncio.wait(servers, timeout=FLUSH_SECONDS)
    _cut_off(servers)
    for outcome in await asyncio.gather(*servers, return_exceptions=True):
        if isinstance(outcome, Exception) and not stopping.is_set():
            raise outcome  # a server has failed: let the caller know


def _sites(node: Node, metering: Metering, listeners: Listeners, certificate: Certificate) -> list[Site]:
    settings, capacity = node.settings, capacity_of(node.settings)
    site = partial(Site, certificate=certificate, settings=settings, requests=node.membership.requests)

    def charge(scope: Any, seconds: float) -> None:
        node.cpu.charge(client_of(scope), seconds)

    logs = [log_access] if settings.access_log else []
    begin, traces = (node.tracer.begin_request, [node.tracer.end_request]) if node.tracer else (None, [])
    accounting = partial(Accounting, charge, begin=begin, turns=node.slices.turns, log_failure=log_cut_off)
    meters = metering.meters
    return [
        site(
            agent_api(node),
            listeners.agent,
            connections_maximum=capacity.agents,
            asks_names=settings.client_certificates != "off",
            accounting=accounting(node.agent_answers.count, reports=[meters["agents"].record, *logs, *traces]),
        ),
        site(
            management_api(node, metering.metrics),
            listeners.management,
            connections_maximum=capacity.management,
            accounting=accounting(node.answers.count, reports=[meters["management"].record, *logs, *traces]),
        ),
    ]


def _renew_certificate(sites: Sequence[Site], served: ServedCertificate) -> None:
    """Reload the certificate; if the new one is unusable, the old one stays in use."""
    try:
        check_pair(sites[0].certificate)
        for renew in (renew for site in sites for renew in site.renewals):
            renew()
        served.load()
    except OSError as error:
        logger.error("the old certificate stays in use: %s", error)  # noqa: TRY400 - a traceback would add nothing
    else:
        logger.info("the certificate was reloaded")


def _cut_off(servers: Sequence[asyncio.Task[None]]) -> None:
    """End the remaining connections, and ignore the failures of their callbacks."""
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    for server in servers:
        server.cancel()
