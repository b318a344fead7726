"""Open the sockets of a node: one pair for each worker, since the kernel spreads connections over sockets.

They are bound first, so that a port in use is reported at once, but they listen only when a worker serves: until then
clients are refused and go to another node, instead of waiting for a node that may start slowly.

If the service manager keeps sockets open, the workers share those instead: they outlive a restart, and connections made
in between wait in their queue.
"""

import errno
import logging
import os
import socket
import time
from collections.abc import Mapping

import msgspec

from comms_api.addresses import Address
from comms_api.errors import ConfigurationError
from comms_api.settings import Settings

logger = logging.getLogger(__name__)

BACKLOG = 4096
TAKEN_SECONDS = 10.0
"""Wait this long for a port that a client connection uses: Linux may assign the default ports to clients."""

RETRY_SECONDS = 0.2


class Listeners(msgspec.Struct, frozen=True):
    """The two sockets of one worker."""

    agent: socket.socket
    management: socket.socket

    def listen(self) -> None:
        """Let clients connect; raises `ConfigurationError` if another program has begun to listen on the port."""
        for setting, listener in (("agent_bind", self.agent), ("management_bind", self.management)):
            try:
                listener.listen(BACKLOG)
            except OSError as error:
                raise ConfigurationError(f"{setting}: cannot listen on {address_of(listener)}: {error}") from None

    def close(self) -> None:
        """Close both."""
        self.agent.close()
        self.management.close()

    def reopen(self) -> "Listeners":
        """Close both and return a pair on the same addresses that does not listen; connections that waited are reset.

        Only for sockets that share their port with other workers: otherwise, the port could be lost.
        """
        addresses = {"agent_bind": address_of(self.agent), "management_bind": address_of(self.management)}
        self.close()
        agent, management = (_open(setting, address, shared=True) for setting, address in addresses.items())
        return Listeners(agent, management)


def open_listeners(settings: Settings, inherited: Mapping[str, int] | None = None) -> list[Listeners]:
    """Return the sockets of each worker; raises `ConfigurationError`, naming the setting.

    `inherited` are the descriptors of listening sockets, `agent` and `management`; they override the settings.
    """
    inherited, workers = inherited or {}, settings.workers
    addresses = {"agent": settings.agent_bind, "management": settings.management_bind}
    for name in addresses.keys() - inherited.keys():
        # Sockets that share a port would silently share it with another program of the same user, too.
        _bind(f"{name}_bind", addresses[name], shared=False).close()
    agents, managements = (
        _open_all(f"{name}_bind", address, workers, inherited.get(name)) for name, address in addresses.items()
    )
    return [Listeners(agent, management) for agent, management in zip(agents, managements, strict=True)]


def _open_all(setting: str, address: str, workers: int, inherited: int | None) -> list[socket.socket]:
    if inherited is not None:
        return [_prepare(socket.socket(fileno=os.dup(inherited))) for _ in range(workers)]
    first = _open(setting, address, shared=workers > 1)
    # A port 0 has become a number now, and the other workers must take the same.
    return [first, *(_open(setting, address_of(first), shared=True) for _ in range(workers - 1))]


def address_of(listener: socket.socket) -> str:
    """Return HOST:PORT."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def url_of(listener: socket.socket, machine: str = "localhost") -> str:
    """Return where a client reaches the socket, if it knows the machine by this name."""
    return f"https://{address_of(listener)}".replace("//0.0.0.0:", f"//{machine}:").replace("//[::]:", f"//{machine}:")


def _open(setting: str, address: str, *, shared: bool) -> socket.socket:
    return _prepare(_bind(setting, address, shared=shared))


def _prepare(listener: socket.socket) -> socket.socket:
    # Connections inherit it, and not every server sets it: without it the parts of an answer come 40 ms apart.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # All duplicates of a socket share this flag, in every process, and Python's `dup` sets it again. If a worker that
    # starts made a shared socket blocking for a moment, another worker would hang in `accept` until the next client.
    listener.settimeout(0)
    return listener


def _bind(setting: str, address: str, *, shared: bool) -> socket.socket:
    """Return a socket on an address; while a client connection uses the port, retry for some seconds."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        raise ConfigurationError(f"{setting}: expected HOST:PORT, not {address!r}")
    endpoint, deadline = Address(host.strip("[]"), int(port)), time.monotonic() + TAKEN_SECONDS
    is_logged = False
    while True:
        try:
            return _bound(endpoint, shared=shared)
        except (OSError, OverflowError) as error:
            if not _is_taken_by_a_connection(error, endpoint) or time.monotonic() > deadline:
                raise ConfigurationError(f"{setting}: cannot listen on {address}: {error}") from None
        if not is_logged:
            logger.warning(
                "%s: a client connection uses %s, trying again for %g s; to prevent this, reserve the port"
                " (sysctl net.ipv4.ip_local_reserved_ports)",
                setting,
                address,
                TAKEN_SECONDS,
            )
        is_logged = True
        time.sleep(RETRY_SECONDS)


def _bound(endpoint: Address, *, shared: bool) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind(endpoint)
    except (OSError, OverflowError):
        listener.close()
        raise
    return listener


def _is_taken_by_a_connection(error: Exception, endpoint: Address) -> bool:
    """Return whether a client connection uses a port. A listening server does not count: it would not end soon."""
    if not isinstance(error, OSError) or error.errno != errno.EADDRINUSE:
        return False
    try:
        socket.create_connection(endpoint, timeout=1).close()
    except OSError:
        return True
    return False
