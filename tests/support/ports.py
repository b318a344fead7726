"""Ports for programs that must be told one before they listen, or that listen there again after they were killed."""

import random
import socket
from contextlib import ExitStack

LISTENING = range(20_000, 32_000)
"""Below the kernel's ephemeral ports, so that no connection on its way out has taken one in the meantime."""


def free_ports(count: int) -> list[int]:
    """Return so many different ports that nobody listens on."""
    with ExitStack() as held:
        ports: list[int] = []
        for port in random.sample(LISTENING, len(LISTENING)):
            probe = held.enter_context(socket.socket())
            if _binds(probe, port):
                ports.append(port)
            if len(ports) == count:
                return ports
    raise RuntimeError(f"no {count} ports of {LISTENING} are free")


def fixed_binds() -> dict[str, str]:
    """Return the settings of a node that is to find its ports free when it starts again."""
    agent, management = free_ports(2)
    return {"agent_bind": f"127.0.0.1:{agent}", "management_bind": f"127.0.0.1:{management}"}


def _binds(probe: socket.socket, port: int) -> bool:
    try:
        probe.bind(("", port))
    except OSError:
        return False
    return True
