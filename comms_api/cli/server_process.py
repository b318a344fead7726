"""Run `comms-api serve` as a child process: for the demonstration, the tests and the bench."""

import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Self

from comms_api.errors import CommsError
from comms_api.settings import PREFIX

START_SECONDS = STOP_SECONDS = 60.0


def server_environment(folder: Path, **settings: object) -> dict[str, str]:
    """Return the environment of a server in a folder, on free ports of this host.

    `settings` override those of the folder and the ports. A setting that is `None` keeps its default. Settings in
    the environment of this process are not passed on.
    """
    values = {
        "data_dir": folder / "data",
        "certs_dir": folder / "certs",
        "agent_bind": "127.0.0.1:0",
        "management_bind": "127.0.0.1:0",
        "log_format": "text",
        **settings,
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return inherited | {f"{PREFIX}{name.upper()}": str(value) for name, value in values.items() if value is not None}


@dataclass
class ServerProcess:
    """A running server. Its working directory is `folder`, where it appends to the file `log`."""

    process: subprocess.Popen[str]
    folder: Path
    agent_url: str
    management_url: str

    @classmethod
    def start(
        cls,
        folder: Path,
        environment: Mapping[str, str],
        *,
        prefix: Sequence[str] = (),
        patience_seconds: float = START_SECONDS,
    ) -> Self:
        """Start a server and return it when it listens; `prefix` is a program that runs the server.

        Raises `CommsError` with the log if the server ends, or does not listen in time.
        """
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "log"
        with log.open("a") as output:
            process = subprocess.Popen(  # noqa: S603 - our own program
                [*prefix, sys.executable, "-m", "comms_api", "serve"],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
            )
        limit = Timer(patience_seconds, process.kill)
        limit.start()
        urls = _read_urls(process)
        limit.cancel()
        if len(urls) < len(("agent", "management")):
            _kill(process)
            raise CommsError(f"the server did not start:\n{log.read_text()}")
        return cls(process, folder, urls["agent API"], urls["management API"])

    @property
    def agent_port(self) -> int:
        """The port of the agent API."""
        return int(self.agent_url.rpartition(":")[2])

    @property
    def management_port(self) -> int:
        """The port of the management API."""
        return int(self.management_url.rpartition(":")[2])

    @property
    def ca(self) -> Path:
        """The authority that signed the server's development certificate."""
        return self.folder / "certs" / "ca.pem"

    @property
    def tls(self) -> ssl.SSLContext:
        """A client's context that trusts the server."""
        return ssl.create_default_context(cafile=self.ca)

    def stop(self, with_signal: signal.Signals = signal.SIGTERM, patience_seconds: float = STOP_SECONDS) -> int:
        """Send a signal, wait until the server has ended, and return its exit code; kill it if that takes too long."""
        try:
            if self.process.poll() is None:
                self.process.send_signal(with_signal)
            return self.process.wait(patience_seconds)
        finally:
            _kill(self.process)


def _read_urls(process: subprocess.Popen[str]) -> dict[str, str]:
    """Return the addresses that the server prints when it listens, by the name of the API."""
    urls: dict[str, str] = {}
    for line in process.stdout or ():
        name, _, url = line.strip().partition(":")
        if name.endswith("API"):
            urls[name] = url.strip()
        if len(urls) == len(("agent", "management")):
            break
    return urls


def _kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
