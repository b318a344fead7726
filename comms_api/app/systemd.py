"""Run a node as a service of systemd: report its state to the service manager, and inherit sockets from it.

It follows sd_notify(3) and sd_listen_fds(3): datagrams to a socket, and open descriptors from 3 on.
"""

import os
import socket
import time
from collections.abc import Mapping
from fcntl import F_SETFD, FD_CLOEXEC, fcntl

import msgspec

from comms_api.duties.repeating import Duty
from comms_api.errors import ConfigurationError

FIRST_DESCRIPTOR = 3
MICROSECONDS = 1_000_000


class ServiceManager(msgspec.Struct, frozen=True):
    """The service manager that started this process; without an address, nothing is reported."""

    address: str = ""
    watchdog_seconds: float | None = None
    """The manager restarts the service if it receives no report for this long."""

    sockets: dict[str, int] = {}
    """The descriptors of the listening sockets that the manager keeps open for this service, by name."""

    def notify(self, state: str) -> None:
        """Report a state: READY=1, STOPPING=1 or WATCHDOG=1. Failures are ignored, since the manager may have ended."""
        if not self.address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sender:
            try:
                sender.sendto(state.encode(), self.address.replace("@", "\0", 1))
            except OSError:
                return

    def notify_watchdog(self, notified_at: float) -> float:
        """Send WATCHDOG=1 at most twice per watchdog interval; return the time of the last report."""
        now = time.monotonic()
        if self.watchdog_seconds is None or now - notified_at < self.watchdog_seconds / 2:
            return notified_at
        self.notify("WATCHDOG=1")
        return now

    def duties(self) -> list[Duty]:
        """Return the duty that reports, twice per watchdog interval, that the event loop runs."""
        if self.watchdog_seconds is None:
            return []
        return [Duty("watchdog", self._report, self.watchdog_seconds / 2)]

    async def _report(self) -> None:
        self.notify("WATCHDOG=1")


NOBODY = ServiceManager()


def find_manager(environ: Mapping[str, str]) -> ServiceManager:
    """Return the service manager that the environment names; raises `ConfigurationError` for invalid values."""
    try:
        return ServiceManager(environ.get("NOTIFY_SOCKET", ""), _watchdog_seconds(environ), _sockets(environ))
    except ValueError as error:
        raise ConfigurationError(f"invalid environment variables from systemd: {error}") from None


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    is_for_this_process = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(environ.get("WATCHDOG_USEC", 0)) / MICROSECONDS or None if is_for_this_process else None


def _sockets(environ: Mapping[str, str]) -> dict[str, int]:
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    descriptors = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(environ.get("LISTEN_FDS", 0)))
    for descriptor in descriptors:
        fcntl(descriptor, F_SETFD, FD_CLOEXEC)  # programs that this process starts must not inherit them
    return dict(zip(names, descriptors, strict=False))
