"""The agent finds its servers by SRV records of a real DNS server, and remembers them while DNS fails."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from dns.asyncresolver import Resolver
from dns.message import from_wire, make_response
from dns.rcode import NXDOMAIN
from dns.rrset import from_text
from support.waiting import PATIENCE

from comms_api.client.spool.thread import SpoolThread
from comms_api.client.transport import servers as servers_module
from comms_api.client.transport.endpoint import Endpoint
from comms_api.client.transport.servers import Servers
from comms_api.client.transport.srv import SrvRecord, SrvRecords
from comms_api.errors import CommsError

NAME = "_comms-api._tcp.example.org."


class NameServer(asyncio.DatagramProtocol):
    """A name server whose SRV records a test can change; without records, the name does not exist."""

    def __init__(self) -> None:
        self.records: list[str] = []
        self.transport: asyncio.DatagramTransport | None = None

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = from_wire(data)
        answer = make_response(query)
        if self.records:
            answer.answer.append(from_text(query.question[0].name, 60, "IN", "SRV", *self.records))
        else:
            answer.set_rcode(NXDOMAIN)
        assert self.transport is not None
        self.transport.sendto(answer.to_wire(), addr)

    def resolver(self) -> Resolver:
        resolver = Resolver(configure=False)
        resolver.nameservers = ["127.0.0.1"]
        assert self.transport is not None
        resolver.port = self.transport.get_extra_info("sockname")[1]
        return resolver


@asynccontextmanager
async def name_server() -> AsyncIterator[NameServer]:
    async with asyncio.timeout(PATIENCE):
        transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
            NameServer, local_addr=("127.0.0.1", 0)
        )
        server.transport = transport
        yield server
        transport.close()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[SpoolThread]:
    opened = SpoolThread(tmp_path / "spool.sqlite", 2**20)
    yield opened
    opened.close()


@pytest.mark.anyio
async def test_records_are_found_and_remembered_while_dns_fails(spool: SpoolThread) -> None:
    async with name_server() as names:
        records = SrvRecords(NAME, spool, names.resolver)
        with pytest.raises(CommsError, match="no SRV records of _comms-api"):
            await records.find()
        names.records = ["0 60 27000 b.example.org.", "10 0 27001 a.example.org."]
        found = [SrvRecord("https://a.example.org:27001", 10, 0), SrvRecord("https://b.example.org:27000", 0, 60)]
        assert await records.find() == found
        names.records = []
        assert await SrvRecords(NAME, spool, names.resolver).find() == found
        names.records = ["0 0 0 ."]  # the service is decidedly not available (RFC 2782)
        assert await records.find() == found
        with pytest.raises(CommsError):
            await SrvRecords("_other._tcp.example.org.", spool, names.resolver).find()


@pytest.mark.anyio
async def test_a_changed_list_of_servers_is_adopted(spool: SpoolThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers_module, "LEAST_CHECK_SECONDS", 0.01)
    async with name_server() as names:
        names.records = ["0 1 1 localhost."]
        records = SrvRecords(NAME, spool, names.resolver)

        async def find() -> list[Endpoint]:
            return [Endpoint(record.url, is_direct=True) for record in await records.find()]

        async with Servers(await find(), "id", spool, 0.01, find) as servers:
            assert servers.url == "https://localhost:1"
            names.records = ["0 1 2 localhost."]
            await servers.wait_and_check()
            assert servers.url == "https://localhost:2"


@pytest.mark.parametrize("options", [[], ["--srv", "n", "--url", "https://h:1"], ["--srv", "n"]])
def test_servers_are_listed_or_found_with_a_private_authority(options: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "comms_api", "agent", *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "--srv" in done.stderr.splitlines()[-1]
