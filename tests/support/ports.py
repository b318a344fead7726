"""Ports for programs that need a port number before they listen, or the same port after a restart."""

import random
import socket
from contextlib import ExitStack

LISTENING = range(20_000, 32_000)
"""Below the kernel's ephemeral ports, so that no outgoing connection takes one in the meantime."""


def free_ports(count: int) -> list[int]:
    """Return this many different free ports."""
    with ExitStack() as held:
        ports: list[int] = []
        for port in random.sample(LISTENING, len(LISTENING)):
            probe = held.enter_context(socket.socket())
            if _binds(probe, port):
                ports.append(port)
            if len(ports) == count:
                return ports
    raise RuntimeError(f"fewer than {count} ports of {LISTENING} are free")


def fixed_binds() -> dict[str, str]:
    """Return settings with fixed ports for a node that is restarted."""
    agent, management = free_ports(2)
    return {"agent_bind": f"127.0.0.1:{agent}", "management_bind": f"127.0.0.1:{management}"}


def _binds(probe: socket.socket, port: int) -> bool:
    try:
        probe.bind(("", port))
    except OSError:
        return False
    return True
