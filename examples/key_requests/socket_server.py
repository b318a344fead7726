#!/usr/bin/env python3
"""Answer key requests on a Unix socket: `id:001` or `ip:192.168.1.100` in, one line of JSON out.

Usage: socket_server.py SOCKET DATABASE

DATABASE and the answers are those of agents_from_sql.py. Only this user and group may connect (mode 0660).
A connection that sends nothing is a health check.
"""

import json
import os
import socket
import socketserver
import sys
from pathlib import Path

from agents_from_sql import answer

REQUEST_BYTES_MAXIMUM = 1024
REQUEST_SECONDS = 5.0
OWNER_AND_GROUP_ONLY = 0o117


class KeyRequest(socketserver.BaseRequestHandler):
    """A connection with one request and its answer."""

    server: "KeyRequestServer"

    def handle(self) -> None:
        """Answer the request; close at once if there is none."""
        self.request.settimeout(REQUEST_SECONDS)
        try:
            request = self.request.recv(REQUEST_BYTES_MAXIMUM)
            if request:
                kind, _, value = request.decode(errors="replace").strip().partition(":")
                self.request.sendall(json.dumps(answer(self.server.database, kind, value)).encode() + b"\n")
        except OSError as error:
            print(f"a request was not answered: {type(error).__name__}", file=sys.stderr)


class KeyRequestServer(socketserver.ThreadingUnixStreamServer):
    """Serves each connection in a thread; the socket never accepts other users, not even while it is created."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, path: Path, database: str) -> None:
        self.database = database
        self._remove_dead(path)
        umask = os.umask(OWNER_AND_GROUP_ONLY)
        try:
            super().__init__(str(path), KeyRequest)
        finally:
            os.umask(umask)

    @staticmethod
    def _remove_dead(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                if path.is_socket():
                    path.unlink()
            except FileNotFoundError:
                return


def main() -> None:
    """Serve until interrupted."""
    if len(sys.argv) != 3:  # noqa: PLR2004 - the two arguments
        sys.exit("usage: socket_server.py SOCKET DATABASE")
    with KeyRequestServer(Path(sys.argv[1]), sys.argv[2]) as server:
        print(f"listening on {sys.argv[1]}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
