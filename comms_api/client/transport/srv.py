"""Find the servers by DNS SRV records (RFC 2782)."""

import asyncio
from collections.abc import Callable

import msgspec
from dns.asyncresolver import Resolver
from dns.exception import DNSException
from dns.rdtypes.IN.SRV import SRV

from comms_api.client.spool.thread import SpoolThread
from comms_api.client.supervise import Health
from comms_api.errors import CommsError

DNS_SECONDS = 15.0
_FACT = "srv records"


class SrvRecord(msgspec.Struct, frozen=True):
    """A server, its priority (lower is better), and its weight among the servers of one priority."""

    url: str
    priority: int
    weight: int


class _Remembered(msgspec.Struct, frozen=True):
    name: str
    records: list[SrvRecord]


class SrvRecords:
    """The SRV records of a name. `spool` keeps the last answer for the time when DNS fails."""

    def __init__(self, name: str, spool: SpoolThread, new_resolver: Callable[[], Resolver] = Resolver) -> None:
        self._name = name
        self._spool = spool
        self._new_resolver = new_resolver
        self._health = Health("finding servers")

    async def find(self) -> list[SrvRecord]:
        """Return the current records, or if DNS fails the last known ones; raises `CommsError` if there are none."""
        remembered = await self._remembered()
        try:
            records = await self._resolve()
        except (DNSException, OSError) as error:
            reason = f"no SRV records of {self._name}: {str(error) or type(error).__name__}"
            if not remembered:
                raise CommsError(reason) from None
            self._health.failed(CommsError(reason))
            return remembered
        self._health.succeeded()
        if records != remembered:
            await self._spool.run(self._spool.file.remember, _FACT, _Remembered(self._name, records))
        return records

    async def _resolve(self) -> list[SrvRecord]:
        async with asyncio.timeout(DNS_SECONDS):
            answer = await self._new_resolver().resolve(self._name, "SRV")  # reads the current resolv.conf
        found = [record for record in answer if isinstance(record, SRV) and record.port and len(record.target) > 1]
        if not found:
            raise OSError("the name offers no server")
        records = (SrvRecord(_url(record), record.priority, record.weight) for record in found)
        return sorted(records, key=lambda record: record.url)

    async def _remembered(self) -> list[SrvRecord]:
        fact = await self._spool.run(self._spool.file.find_fact, _FACT)
        remembered = None if fact is None else msgspec.json.decode(fact, type=_Remembered)
        return remembered.records if remembered and remembered.name == self._name else []


def _url(record: SRV) -> str:
    return f"https://{record.target.to_text(omit_final_dot=True)}:{record.port}"
