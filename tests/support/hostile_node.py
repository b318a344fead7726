"""Serve the agents' API, and send what a test writes into a folder: `hostile_node.py FOLDER AGENT`.

It serves each file `FOLDER/orders/*.json` to one poll, and appends the agent's reports to `FOLDER/reports`. It answers
requests for the configuration unless `FOLDER/holds` exists.
"""

import base64
import json
import ssl
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FOLDER = Path(sys.argv[1])
_CLAIMS = (
    base64.urlsafe_b64encode(json.dumps({"uuid": sys.argv[2], "sub": sys.argv[2], "iat": 0, "exp": 2**32}).encode())
    .decode()
    .rstrip("=")
)
TOKEN = f"e30.{_CLAIMS}.e30"


class HostileNode(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.startswith("/commands"):
            self._answer({"commands": self._next_orders()})
            return
        (FOLDER / "fetched").touch()
        while (FOLDER / "holds").exists():
            time.sleep(0.05)
        self._answer({"files": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if self.path != "/commands/results":
            self._answer({"token": TOKEN, "results": []})
            return
        results = json.loads(body)["results"]
        with (FOLDER / "reports").open("a") as reports:
            reports.writelines(json.dumps(result) + "\n" for result in results)
        self._answer(
            {
                "results": [
                    {"index": index, "order_id": result["order_id"], "result": "updated", "status": 200}
                    for index, result in enumerate(results)
                ]
            }
        )

    def do_PUT(self) -> None:
        self.do_POST()

    def _next_orders(self) -> list[object]:
        for path in sorted((FOLDER / "orders").glob("*.json")):
            orders: list[object] = json.loads(path.read_text())
            path.unlink()
            return orders
        time.sleep(0.1)
        return []

    def _answer(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Write no log."""


if __name__ == "__main__":
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(FOLDER / "node.pem")
    server = ThreadingHTTPServer(("127.0.0.1", 0), HostileNode)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    (FOLDER / "draft").write_text(str(server.server_port))
    (FOLDER / "draft").rename(FOLDER / "port")
    server.serve_forever()
