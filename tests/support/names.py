"""A name server whose answers a test can change."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

A, INTERNET, TTL_SECONDS = 1, 1, 1
HEAD_BYTES, NO_ERROR, NO_SUCH_NAME = 12, 0x8180, 0x8183
POINTER_TO_THE_QUESTION = 0xC00C


class NameServer:
    """Answers queries for IPv4 addresses (RFC 1035)."""

    def __init__(self, listener: socket.socket) -> None:
        self.addresses: dict[str, str] = {}
        self.port: int = listener.getsockname()[1]
        self._listener = listener

    def serve(self) -> None:
        """Answer until an empty datagram arrives."""
        while True:
            question, sender = self._listener.recvfrom(4096)
            if not question:
                return
            self._listener.sendto(self._answer(question), sender)

    def _answer(self, question: bytes) -> bytes:
        labels, position = [], HEAD_BYTES
        while length := question[position]:
            labels.append(question[position + 1 : position + 1 + length].decode())
            position += 1 + length
        [record_type] = struct.unpack_from(">H", question, position + 1)
        address = self.addresses.get(".".join(labels))
        found = b""
        if address is not None and record_type == A:
            found = struct.pack(">HHHIH", POINTER_TO_THE_QUESTION, A, INTERNET, TTL_SECONDS, 4)
            found += socket.inet_aton(address)
        head = struct.pack(">HHHHH", NO_SUCH_NAME if address is None else NO_ERROR, 1, bool(found), 0, 0)
        return question[:2] + head + question[HEAD_BYTES : position + 5] + found


@contextmanager
def running_name_server() -> Iterator[NameServer]:
    """Run a name server without names."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        server = NameServer(listener)
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            yield server
        finally:
            listener.sendto(b"", listener.getsockname())
            thread.join()
