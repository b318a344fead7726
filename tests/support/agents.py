"""A `comms-api agent` process."""

import json
import signal
import subprocess
import sys
from pathlib import Path

from support.server import Server
from support.waiting import PATIENCE


class Agent:
    """An agent of one or several nodes, which have one authority. It follows one log file."""

    def __init__(self, servers: Server | list[Server], folder: Path, name: str, *extra: str) -> None:
        nodes = servers if isinstance(servers, list) else [servers]
        self.folder = folder / name
        self.folder.mkdir()
        self.log_file = self.folder / "watched.log"
        self.log_file.touch()
        self.command = [
            sys.executable, "-m", "comms_api", "agent",
            *(word for node in nodes for word in ("--url", node.agent_url, "--management-url", node.management_url)),
            "--ca", str(nodes[0].ca), "--data-dir", str(self.folder / "data"), "--name", name,
            "--password-file", str(nodes[0].folder / "password"), "--log-file", str(self.log_file),
            "--from-start", "--batch-seconds", "0.1", "--wait-seconds", "5", *extra,
        ]  # fmt: skip
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command, stderr=log)
        return self.process

    def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(with_signal)
        return self.process.wait(timeout=PATIENCE)

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def statistics(self) -> dict[str, int]:
        try:
            counters: dict[str, int] = json.loads((self.folder / "data" / "statistics.json").read_text())
        except FileNotFoundError:
            return {}
        return counters
