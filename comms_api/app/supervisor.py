"""Start a node: prepare what it needs, open its sockets, and keep its workers running."""

import gc
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib import import_module
from mmap import mmap
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, NoReturn

import msgspec
from msgspec import structs

from comms_api.app.capacity import capacity_of, log_capacity, raise_files_maximum
from comms_api.app.certificates import Certificate, find_certificate
from comms_api.app.listeners import Listeners, open_listeners, url_of
from comms_api.app.node_address import find_node_address
from comms_api.app.secret_files import load_secret
from comms_api.app.server import Worker, check_traces, run_worker
from comms_api.app.systemd import NOBODY, ServiceManager
from comms_api.cluster.model import NodeProcess
from comms_api.database.connect import database_address
from comms_api.errors import CommsError, ConfigurationError
from comms_api.events.sinks import check_sink
from comms_api.metrics.snapshots import Snapshots
from comms_api.settings import Settings

logger = logging.getLogger(__name__)

RESTART_SECONDS = 1.0
COLLECTION_THRESHOLDS = 10_000, 50
"""The thresholds of `gc.set_threshold`: new objects before a collection of the youngest generation, which takes about a
millisecond, and collections before one of older generations. Python's defaults are 700 and 10.
"""

PREPARATION = "comms_api.app.preparation"
_ENDING = (signal.SIGTERM, signal.SIGINT)
_FORK = multiprocessing.get_context("fork")


class Listening(msgspec.Struct, frozen=True):
    """The addresses of a node, and the administrator's password file if the password was just generated."""

    agent_url: str
    management_url: str
    certificate: Certificate
    administrator_password_file: Path | None


def serve(settings: Settings, announce: Callable[[Listening], None], manager: ServiceManager = NOBODY) -> None:
    """Serve until SIGTERM or SIGINT, calling `announce` and notifying the manager when agents may connect.

    SIGHUP reloads the certificate. Raises `ConfigurationError` for anything that an operator must fix first.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until a worker can reload a certificate
    signal.signal(signal.SIGTERM, _leave)  # until a worker can drain; the started parts are closed anyway
    check_sink(settings)
    check_traces(settings)
    raise_files_maximum()
    secret, certificate = load_secret(settings), find_certificate(settings)
    with ExitStack() as stack:
        listeners = open_listeners(settings, manager.sockets)
        for pair in listeners:
            stack.callback(pair.close)
        address = stack.enter_context(database_address(settings))
        node_address = find_node_address(settings, listeners[0])
        password_file = _call_in_child(PREPARATION, address.url, secret, settings, node_address)
        process = NodeProcess(node_address, 0, capacity_of(settings).agents, secret.fingerprint)
        worker = Worker(address, secret, certificate, settings, process, Snapshots(settings.workers), manager)
        listening = Listening(
            url_of(listeners[0].agent),
            url_of(listeners[0].management),
            certificate,
            password_file,
        )

        def ready() -> None:
            log_capacity(settings)
            announce(listening)
            manager.notify("READY=1")

        _collect_garbage_rarely()
        if settings.workers == 1:
            run_worker(worker, listeners[0], ready)
        else:
            _supervise(worker, listeners, ready)


def _collect_garbage_rarely() -> None:
    """Exclude imported objects from garbage collections, and collect rarely, since requests leave few cycles.

    Call this before a fork: a collection writes to each object that it visits, which unshares the object's page.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTION_THRESHOLDS)


def _call_in_child(module: str, *arguments: object) -> Any:
    """Call a module's `prepare` in a child process and return the result; this process keeps none of its imports."""
    receiver, sender = _FORK.Pipe(duplex=False)
    child = _FORK.Process(target=_answer_parent, args=(sender, module, arguments))
    child.start()
    sender.close()
    try:
        outcome = receiver.recv()
    except EOFError:
        raise ConfigurationError("database_url: the database could not be prepared; the log above says why") from None
    finally:
        child.terminate()  # it holds our sockets, and its result is not needed any more
        child.join()
    if isinstance(outcome, CommsError):
        raise outcome
    return outcome


def _leave(_number: int, _frame: object) -> NoReturn:
    sys.exit(0)


def _answer_parent(sender: Connection, module: str, arguments: Sequence[object]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        sender.send(import_module(module).prepare(*arguments))
    except CommsError as error:
        sender.send(error)


def _supervise(worker: Worker, listeners: list[Listeners], ready: Callable[[], None]) -> None:
    """Run a process on each pair of sockets, replace each that dies, forward SIGHUP, and end all on other signals."""
    stopping: list[int] = []
    for number in _ENDING:
        signal.signal(number, lambda received, _frame: stopping.append(received))
    manager, notified_at = worker.manager, 0.0
    workers = _Workers(worker, listeners, ready)
    signal.signal(signal.SIGHUP, lambda number, _frame: workers.send_signal(number))
    while not stopping:
        time.sleep(0.1)
        notified_at = manager.notify_watchdog(notified_at)
        dead = workers.find_dead()
        if dead is not None and not stopping:
            workers.replace(dead)
    manager.notify("STOPPING=1")
    workers.end()


class _Workers:
    """The processes of a node, one on each pair of sockets."""

    def __init__(self, worker: Worker, listeners: list[Listeners], ready: Callable[[], None]) -> None:
        self._worker = worker
        self._listeners = listeners
        self._ready = _once_across_processes(ready)
        self._has_served = mmap(-1, len(listeners))
        """By number, whether the process has served; the processes share it."""

        self._processes = [self._start(number) for number in range(len(listeners))]

    def _start(self, number: int) -> ForkProcess:
        node_process = structs.replace(self._worker.node_process, worker=number)
        worker = structs.replace(self._worker, node_process=node_process, manager=NOBODY)
        self._has_served[number] = False

        def serves() -> None:
            self._has_served[number] = True
            if number == 0:  # the first worker announces the node
                self._ready()

        return _start(worker, self._listeners, serves)

    def find_dead(self) -> int | None:
        """Return the number of a process that has ended."""
        return next((number for number, process in enumerate(self._processes) if not process.is_alive()), None)

    def replace(self, number: int) -> None:
        """Start another process in place of one that has ended."""
        process = self._processes[number]
        if not self._has_served[number] and not self._worker.manager.sockets:
            # The next one may fail, too: until one serves, clients must go to the other workers.
            self._listeners[number] = self._listeners[number].reopen()
        logger.error("worker %s ended with %s, starting another", process.pid, process.exitcode)
        time.sleep(RESTART_SECONDS)
        self._processes[number] = self._start(number)

    def send_signal(self, number: int) -> None:
        """Send a signal to the processes that live."""
        for process in self._processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, number)

    def end(self) -> None:
        """Let the processes drain, and wait for them."""
        for pair in self._listeners:
            pair.close()
        self.send_signal(signal.SIGTERM)
        for process in self._processes:
            process.join()


def _once_across_processes(call: Callable[[], None]) -> Callable[[], None]:
    """Wrap `call` so that it runs at most once across forked processes."""
    was_called = mmap(-1, 1)  # the processes share it

    def call_once() -> None:
        if not was_called[0]:
            call()
            was_called[0] = 1

    return call_once


def _start(worker: Worker, listeners: Sequence[Listeners], ready: Callable[[], None]) -> ForkProcess:
    """Start a worker. Until it has removed the inherited handlers, SIGTERM and SIGINT are blocked, so none is lost."""
    process = _FORK.Process(target=_run_child, args=(worker, listeners, ready))
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    return process


def _run_child(worker: Worker, listeners: Sequence[Listeners], ready: Callable[[], None]) -> None:
    for number, pair in enumerate(listeners):
        if number != worker.node_process.worker:
            pair.close()  # a socket that stays open here would take connections after its own worker has ended
    # Ctrl-C at a terminal reaches the whole process group; the supervisor forwards it once.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    parent = os.getppid()
    run_worker(worker, listeners[worker.node_process.worker], ready, lambda: os.getppid() == parent)
