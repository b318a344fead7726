"""Where this node is, as the other nodes and operators know it."""

import platform
from pathlib import Path

from comms_api.app.listeners import Listeners, url_of
from comms_api.cluster.model import Place
from comms_api.settings import Settings
from comms_api.text.printable import as_text

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def find_place(settings: Settings, listeners: Listeners) -> Place:
    """Return the node's place; a socket that listens everywhere is known by the name of its machine."""
    machine = as_text(platform.node())
    return Place(
        name=settings.node_name or machine,
        agent_url=url_of(listeners.agent, machine),
        management_url=url_of(listeners.management, machine),
        boot_id=BOOT_ID.read_text().strip() if BOOT_ID.exists() else "",
    )
