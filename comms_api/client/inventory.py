"""What is on this host: its system, packages, processes and network interfaces; and what has changed.

Documents hold nothing that moves by itself, so that a host on which nothing happens sends nothing.
"""

import hashlib
import platform
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import msgspec
import psutil

from comms_api.client.host import this_host
from comms_api.client.model import Change
from comms_api.client.packages import PackageDatabases
from comms_api.client.supervise import Background, Health
from comms_api.text.printable import as_text

MODULE = "inventory"
SCAN_SECONDS = 120.0

Documents = dict[str, bytes]
"""JSON documents by id."""


def state_id(*parts: object) -> str:
    """Return the id of a state whose identity is `parts`."""
    return hashlib.sha1("\0".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


def digest(document: bytes) -> bytes:
    """Return what two documents are compared by."""
    return hashlib.blake2b(document, digest_size=16).digest()


def difference(collector: str, known: Mapping[str, bytes], current: Documents) -> Iterator[tuple[Change, bytes]]:
    """Yield the changes that lead from what is known (digests by id) to `current`, each with its digest."""
    for id_, document in current.items():
        new = digest(document)
        if known.get(id_) != new:
            yield Change(MODULE, collector, id_, "update" if id_ in known else "create", document), new
    for id_ in known.keys() - current.keys():
        yield Change(MODULE, collector, id_, "delete", None), b""


def _document(**members: Any) -> bytes:
    return msgspec.json.encode(members)


def collect_system() -> Documents:
    """Return the one document of the operating system."""
    host = this_host()
    kernel = {"release": platform.release(), "version": platform.version()}
    return {state_id(host.hostname): _document(host=host, kernel=kernel)}


def collect_packages(databases: PackageDatabases) -> Documents:
    """Return a document per installed package; rpm may have several versions of one, such as kernels."""
    documents: Documents = {}
    for package in databases.read():
        versions = ("rpm", package.version) if package.type == "rpm" else ()
        documents[state_id(package.name, package.architecture, *versions)] = _document(package=package)
    return documents


def collect_processes() -> Documents:
    """Return a document per process; one that ends meanwhile is left out.

    A start is told since boot, not since 1970: that moves whenever the clock is corrected, for every process.
    """
    booted = psutil.boot_time()
    documents: Documents = {}
    for process in psutil.process_iter():
        try:
            with process.oneshot():
                start = round(process.create_time() - booted, 2)
                found = {"pid": process.pid, "name": as_text(process.name()), "ppid": process.ppid()}
                found |= {"user": process.username(), "command_line": [as_text(word) for word in process.cmdline()]}
        except psutil.Error:
            continue
        found["start_seconds_after_boot"] = start
        documents[state_id(process.pid, start)] = _document(process=found)
    return documents


def collect_networks() -> Documents:
    """Return a document per network interface."""
    states = psutil.net_if_stats()
    documents: Documents = {}
    for name, addresses in psutil.net_if_addrs().items():
        found = sorted((address.family.name, address.address, address.netmask or "") for address in addresses)
        is_up = name in states and states[name].isup
        documents[state_id(name)] = _document(interface={"name": name, "is_up": is_up, "addresses": found})
    return documents


class Scan:
    """A collector that may fail or hang, which is not the same as finding nothing."""

    def __init__(self, name: str, collect: Callable[[], Documents]) -> None:
        """Collect nothing yet."""
        self.name = name
        self._collect = collect
        self._background, self._health = Background(), Health(f"collecting {name}")

    async def run(self) -> Documents | None:
        """Return the current documents; if collecting fails, log it once and return None."""
        try:
            documents = await self._background.run(self._collect, SCAN_SECONDS)
        except Exception as error:  # noqa: BLE001 - the other collectors go on
            self._health.failed(error)
            return None
        self._health.succeeded()
        return documents


COLLECTORS: Mapping[str, Callable[[], Documents]] = {
    "system": collect_system,
    "packages": partial(collect_packages, PackageDatabases()),
    "processes": collect_processes,
    "networks": collect_networks,
}
