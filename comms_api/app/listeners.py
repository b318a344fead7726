"""Open the sockets of a node: one pair for each worker, since the kernel spreads connections over sockets."""

import socket

import msgspec

from comms_api.errors import ConfigurationError
from comms_api.settings import Settings

BACKLOG = 4096


class Listeners(msgspec.Struct, frozen=True):
    """The two listening sockets of one worker."""

    agent: socket.socket
    management: socket.socket

    def close(self) -> None:
        """Close both."""
        self.agent.close()
        self.management.close()


def open_listeners(settings: Settings) -> list[Listeners]:
    """Return the sockets of each worker; raises `ConfigurationError`, naming the setting."""
    agent, management = settings.agent_bind, settings.management_bind
    _probe("agent_bind", agent)
    _probe("management_bind", management)
    workers: list[Listeners] = []
    for _ in range(settings.workers):
        workers.append(Listeners(_listen("agent_bind", agent), _listen("management_bind", management)))
        # A port 0 has become a number now, and the other workers must take the same.
        agent, management = address_of(workers[0].agent), address_of(workers[0].management)
    return workers


def address_of(listener: socket.socket) -> str:
    """Return HOST:PORT."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def url_of(listener: socket.socket) -> str:
    """Return where a client on this machine reaches the socket."""
    return f"https://{address_of(listener)}".replace("//0.0.0.0:", "//localhost:").replace("//[::]:", "//localhost:")


def _probe(setting: str, address: str) -> None:
    # Sockets that share a port would share it with another program of ours as well, and nobody would notice.
    _bind(setting, address, shared=False).close()


def _listen(setting: str, address: str) -> socket.socket:
    listener = _bind(setting, address, shared=True)
    # Connections inherit it, and not every server sets it: without it the parts of an answer come 40 ms apart.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.listen(BACKLOG)
    return listener


def _bind(setting: str, address: str, *, shared: bool) -> socket.socket:
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        raise ConfigurationError(f"{setting}: expected HOST:PORT, not {address!r}")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host.strip("[]"), int(port)))
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigurationError(f"{setting}: cannot listen on {address}: {error}") from None
    return listener
