"""Ports that are in use when a node starts."""

import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.ports import free_ports
from support.server import start_server
from support.waiting import wait_until

from comms_api.app.listeners import open_listeners
from comms_api.errors import ConfigurationError
from comms_api.settings import Settings


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_a_start_waits_for_a_port_that_a_connection_has_taken(
    folder: Path, database_url: str, listening: socket.socket
) -> None:
    [port] = free_ports(1)
    log = folder / "log"
    client = socket.create_connection(listening.getsockname(), source_address=("127.0.0.1", port))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() frees the port at once
    with ThreadPoolExecutor(1) as thread, client:
        starting = thread.submit(start_server, folder, database_url, management_bind=f"127.0.0.1:{port}")
        wait_until(lambda: log.exists() and f"a client connection uses 127.0.0.1:{port}" in log.read_text())
        client.close()
        server = starting.result()
    assert server.management_port == port
    assert server.stop() == 0


def test_a_port_on_which_another_program_listens_is_refused(
    listening: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    host, port = listening.getsockname()
    with pytest.raises(ConfigurationError, match=f"agent_bind: cannot listen on {host}:{port}: .*in use"):
        open_listeners(Settings(agent_bind=f"{host}:{port}", management_bind="127.0.0.1:0"))
    assert "trying again" not in caplog.text
