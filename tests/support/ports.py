"""Ports for programs that need a port number before they listen, or the same port after a restart."""

import os
import random
import socket
from contextlib import ExitStack
from itertools import cycle, islice

LISTENING = range(20_000, 32_000)
"""Below the kernel's ephemeral ports, so that no outgoing connection takes one in the meantime."""


WORKERS_MAXIMUM = 12

_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_OWNED = LISTENING[_WORKER % WORKERS_MAXIMUM :: WORKERS_MAXIMUM]
"""Ports that no other worker of this run returns, because it could bind one before the test does."""

_CANDIDATES = cycle(random.sample(_OWNED, len(_OWNED)))
"""Returns a port again only after all others: a stopped node may start on its port later."""


def free_ports(count: int) -> list[int]:
    """Return this many different free ports."""
    with ExitStack() as held:
        ports: list[int] = []
        for port in islice(_CANDIDATES, len(_OWNED)):
            probe = held.enter_context(socket.socket())
            if _binds(probe, port):
                ports.append(port)
            if len(ports) == count:
                return ports
    raise RuntimeError(f"fewer than {count} ports of {_OWNED} are free")


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
