"""The name and the URLs under which operators and the other nodes know this node."""

import platform
from pathlib import Path

from comms_api.app.listeners import Listeners, url_of
from comms_api.cluster.model import NodeAddress
from comms_api.settings import Settings
from comms_api.text.printable import as_text

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def find_node_name(settings: Settings) -> str:
    """Return the node's name: the configured one, or the machine's."""
    return settings.node_name or as_text(platform.node())


def find_node_address(settings: Settings, listeners: Listeners) -> NodeAddress:
    """Return the node's name and URLs; the URL of a socket that listens on all addresses names the machine."""
    machine = as_text(platform.node())
    return NodeAddress(
        name=find_node_name(settings),
        agent_url=url_of(listeners.agent, machine),
        management_url=url_of(listeners.management, machine),
        boot_id=BOOT_ID.read_text().strip() if BOOT_ID.exists() else "",
    )
