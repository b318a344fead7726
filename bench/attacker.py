"""The processes of an attack: the attacker, and a server that discards all input.

`python -m bench.attacker` reads a `Plan` from standard input and attacks until it reads a line. Then it prints a
`Report`.
`python -m bench.attacker discard FOLDER` serves, with the certificate in that folder, until its input ends.
"""

import asyncio
import contextlib
import ssl
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import uvloop

from bench.attacks import Lane
from bench.hostile import Shot

ADDRESS = "127.0.0.66"
"""The attackers' address, different from the innocent agent's."""

PIECE_BYTES = 65_536


class Start(msgspec.Struct, frozen=True):
    """The time when a request started, the index of its lane, and the index of its shot in the lane."""

    seconds: float
    lane: int
    shot: int


class Plan(msgspec.Struct, frozen=True):
    """The requests to send: those of the lanes, as fast as answers arrive, or an earlier attack at its same times."""

    certificate_authority: str
    lanes: Sequence[Lane]
    replayed: Sequence[Start] = ()
    discard_port: int = 0
    """If set, `replayed` is sent to this port, and no answers are read."""


class Report(msgspec.Struct, frozen=True):
    """The requests sent, and their outcomes by status or by the name of the failure."""

    starts: Sequence[Start]
    bytes_sent: int
    outcomes: dict[str, int]


class Attacker:
    """Sends the requests of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._tls = ssl.create_default_context(cafile=plan.certificate_authority)
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda *_: None)  # uvloop would log each aborted connection
        self._began = self._loop.time()
        self._starts: list[Start] = []
        self._bytes_sent = 0
        self._outcomes: Counter[str] = Counter()

    def report(self) -> Report:
        """Return the requests sent so far."""
        return Report(self._starts, self._bytes_sent, dict(self._outcomes))

    async def run(self) -> None:
        """Attack until cancelled."""
        async with asyncio.TaskGroup() as group:
            if self._plan.discard_port:
                group.create_task(self._replay(group))
                return
            for number, lane in enumerate(self._plan.lanes):
                for first in range(lane.connections):
                    group.create_task(self._attack(number, lane, first))

    async def _attack(self, number: int, lane: Lane, first: int) -> None:
        at = first
        while True:
            chosen = at % len(lane.shots)
            self._starts.append(Start(self._loop.time() - self._began, number, chosen))
            self._outcomes[await self._ask(lane, lane.shots[chosen])] += 1
            at += lane.connections
            await asyncio.sleep(lane.pause_seconds)

    async def _replay(self, group: asyncio.TaskGroup) -> None:
        for start in self._plan.replayed:
            await asyncio.sleep(max(0, self._began + start.seconds - self._loop.time()))
            self._starts.append(start)
            group.create_task(self._send_only(self._plan.lanes[start.lane].shots[start.shot]))

    async def _send_only(self, shot: Shot) -> None:
        with contextlib.suppress(OSError):
            _, writer = await self._connect(self._plan.discard_port)
            await self._send(writer, shot)
            writer.close()

    async def _ask(self, lane: Lane, shot: Shot) -> str:
        """Send a request and return the status of its answer."""
        try:
            async with asyncio.timeout(lane.patience_seconds):
                reader, writer = await self._connect(lane.port)
                try:
                    with contextlib.suppress(ConnectionError):  # refused during sending: there may be an answer
                        await self._send(writer, shot)
                    return await self._read(lane, reader)
                finally:
                    writer.transport.abort()
        except OSError as error:
            return type(error).__name__

    async def _connect(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", port, ssl=self._tls, local_addr=(ADDRESS, 0))

    async def _send(self, writer: asyncio.StreamWriter, shot: Shot) -> None:
        for part in shot.parts():
            writer.write(part)
            await writer.drain()
            self._bytes_sent += len(part)

    async def _read(self, lane: Lane, reader: asyncio.StreamReader) -> str:
        if not lane.reads:
            await asyncio.Event().wait()
        status = (await reader.readline()).split(b" ")[1:2]
        while await reader.read(PIECE_BYTES):
            pass
        return status[0].decode() if status else "closed"


async def _attack_until_a_line_comes(plan: Plan) -> Report:
    attacker = Attacker(plan)
    task = asyncio.create_task(attacker.run())
    print("attacking", flush=True)  # noqa: T201 - for the process that has started this one
    await asyncio.to_thread(sys.stdin.buffer.readline)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return attacker.report()


class _Discard(asyncio.Protocol):
    """A connection whose bytes are dropped."""


async def _discard_until_input_ends(folder: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    server = await asyncio.get_running_loop().create_server(_Discard, "127.0.0.1", 0, ssl=context, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 - for the process that has started this one
    await asyncio.to_thread(sys.stdin.buffer.read)


def _main() -> None:
    if sys.argv[1:2] == ["discard"]:
        uvloop.run(_discard_until_input_ends(Path(sys.argv[2])))
        return
    size = int(sys.stdin.buffer.readline())
    plan = msgspec.msgpack.decode(sys.stdin.buffer.read(size), type=Plan)
    report = uvloop.run(_attack_until_a_line_comes(plan))
    sys.stdout.buffer.write(msgspec.msgpack.encode(report))


if __name__ == "__main__":
    _main()
