"""Run the collectors, and compare their documents with what the server knows."""

import hashlib
from collections.abc import Callable, Iterator, Mapping

from comms_api.client.inventory.collectors import Documents
from comms_api.client.spool.model import Change
from comms_api.client.supervise import Health
from comms_api.client.threads import Background

MODULE = "inventory"
SCAN_SECONDS = 120.0


class Scan:
    """Runs a collector that may fail or hang. A failure is not the same as finding nothing."""

    def __init__(self, name: str, collect: Callable[[], Documents]) -> None:
        self.name = name
        self._collect = collect
        self._background, self._health = Background(), Health(f"collecting {name}")

    async def run(self) -> Documents | None:
        """Return the current documents; if collecting fails, log it once and return None."""
        try:
            documents = await self._background.run(self._collect, SCAN_SECONDS)
        except Exception as error:  # noqa: BLE001 - the other collectors continue
            self._health.failed(error)
            return None
        self._health.succeeded()
        return documents


def difference(collector: str, known: Mapping[str, bytes], current: Documents) -> Iterator[tuple[Change, bytes]]:
    """Yield the changes from the known documents (digests by id) to the current ones, each with its digest."""
    for id_, document in current.items():
        new = digest(document)
        if known.get(id_) != new:
            yield Change(MODULE, collector, id_, "update" if id_ in known else "create", document), new
    for id_ in known.keys() - current.keys():
        yield Change(MODULE, collector, id_, "delete", None), b""


def digest(document: bytes) -> bytes:
    """Return the digest by which documents are compared."""
    return hashlib.blake2b(document, digest_size=16).digest()
