"""Collect the inventory of this host: its system, packages, processes and network interfaces.

Documents contain no constantly changing values, so an idle host sends nothing.
"""

import hashlib
import platform
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec
import psutil

from comms_api.client.host import this_host
from comms_api.client.inventory.packages import PackageDatabases
from comms_api.text.printable import as_text

Documents = dict[str, bytes]
"""JSON documents by id."""


def state_id(*parts: object) -> str:
    """Return the id of the state that `parts` identify."""
    return hashlib.sha1("\0".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


def _document(**members: Any) -> bytes:
    return msgspec.json.encode(members)


def collect_system() -> Documents:
    """Return the one document of the operating system."""
    host = this_host()
    kernel = {"release": platform.release(), "version": platform.version()}
    return {state_id(host.hostname): _document(host=host, kernel=kernel)}


def collect_packages(databases: PackageDatabases) -> Documents:
    """Return a document per installed package. rpm may install several versions of one, such as kernels."""
    documents: Documents = {}
    for package in databases.read():
        versions = ("rpm", package.version) if package.type == "rpm" else ()
        documents[state_id(package.name, package.architecture, *versions)] = _document(package=package)
    return documents


def collect_processes() -> Documents:
    """Return a document per process, except processes that end during the collection.

    The start of a process is counted from the boot: counted from 1970, it would change with every clock correction.
    """
    booted = psutil.boot_time()
    documents: Documents = {}
    for process in psutil.process_iter():
        try:
            with process.oneshot():
                start = round(process.create_time() - booted, 2)
                found = {"pid": process.pid, "name": as_text(process.name()), "ppid": process.ppid()}
                found |= {
                    "user": as_text(process.username()),
                    "command_line": [as_text(word) for word in process.cmdline()],
                }
        except psutil.Error:
            continue
        found["start_seconds_after_boot"] = start
        documents[state_id(process.pid, start)] = _document(process=found)
    return documents


def collect_networks() -> Documents:
    """Return a document per network interface."""
    states = psutil.net_if_stats()
    documents: Documents = {}
    for system_name, addresses in psutil.net_if_addrs().items():
        name = as_text(system_name)
        found = sorted((address.family.name, address.address, address.netmask or "") for address in addresses)
        is_up = system_name in states and states[system_name].isup
        documents[state_id(name)] = _document(interface={"name": name, "is_up": is_up, "addresses": found})
    return documents


COLLECTORS: Mapping[str, Callable[[], Documents]] = {
    "system": collect_system,
    "packages": partial(collect_packages, PackageDatabases()),
    "processes": collect_processes,
    "networks": collect_networks,
}
