"""Run NATS servers with JetStream: real processes on free ports, with files in a folder of the test."""

import asyncio
import socket
import subprocess
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from signal import SIGCONT
from typing import Any

import nats

from comms_api.events.jetstream.connection import STREAM
from support.metrics import wait_for
from support.ports import free_ports
from support.server import Server, running_server
from support.waiting import PATIENCE, pause, wait_until

PROGRAM = Path(sysconfig.get_path("scripts")) / "nats-server"


class NatsServer:
    """One server; after a restart, it has the same ports and files."""

    def __init__(self, folder: Path, name: str, port: int, *settings: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name, self.port = name, port
        self.url = f"nats://127.0.0.1:{port}"
        self._log = folder / "log"
        self._configuration = folder / "nats.conf"
        store = f'jetstream {{ store_dir: "{folder}/store", max_file_store: 1G, sync_interval: always }}'
        lines = [f"server_name: {name}", f"listen: 127.0.0.1:{port}", store, *settings]
        self._configuration.write_text("\n".join(lines))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("a") as log:
            self._process = subprocess.Popen([PROGRAM, "-c", self._configuration], stdout=log, stderr=log)
        wait_until(lambda: self._listens() or self._process is None or self._process.poll() is not None)
        assert self._process.poll() is None, self._log.read_text()

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the process for the block: the kernel accepts bytes, but the server does nothing."""
        assert self._process is not None
        pause(self._process.pid)
        try:
            yield
        finally:
            self._process.send_signal(SIGCONT)

    def kill(self) -> None:
        """Kill the server. Its disk survives."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=PATIENCE)
            self._process = None


@contextmanager
def nats_servers(folder: Path, count: int, *settings: str) -> Iterator[Sequence[NatsServer]]:
    """Run this many servers, as a cluster if there are several."""
    ports = free_ports(2 * count)
    routes = ports[count:]
    urls = ", ".join(f"nats://127.0.0.1:{port}" for port in routes)
    servers = [
        NatsServer(
            folder / f"n{number}",
            f"n{number}",
            ports[number],
            *([f"cluster {{ name: test, listen: 127.0.0.1:{routes[number]}, routes: [{urls}] }}"] if count > 1 else []),
            *settings,
        )
        for number in range(count)
    ]
    try:
        for server in servers:
            server.start()
        yield servers
    finally:
        for server in servers:
            server.kill()


@contextmanager
def streaming_server(folder: Path, database_url: str, **settings: Any) -> Iterator[Server]:
    """Run a node for the block, which begins when the node is connected to its stream."""
    with running_server(folder, database_url, **settings) as running:
        wait_for(running.management(), {"comms_api_jetstream_up": 1})
        yield running


def count_messages(servers: Sequence[NatsServer]) -> int:
    """Return how many messages the stream has."""

    async def ask() -> int:
        client = await nats.connect([server.url for server in servers])
        info = await client.jetstream().stream_info(STREAM)
        await client.close()
        return info.state.messages

    return asyncio.run(ask())


def urls_of(servers: Sequence[NatsServer]) -> str:
    return ",".join(server.url for server in servers)


def stream_settings(servers: Sequence[NatsServer], stream_bytes: int = 2**26) -> dict[str, Any]:
    """Return the settings of a node whose events go to a stream with a replica on each server."""
    return {
        "events_sink": "jetstream",
        "nats_servers": urls_of(servers),
        "nats_replicas": len(servers),
        "nats_stream_bytes": stream_bytes,
    }
