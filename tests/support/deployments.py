"""A deployment, and the doctor that examines it."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from support.databases import querying
from support.server import Server, environment, running_server
from support.waiting import PATIENCE, wait_until

Finding = dict[str, str]
NAME = "patient"


@dataclass
class Deployment:
    """The settings of a node, which may run."""

    folder: Path
    database_url: str | None
    settings: dict[str, Any] = field(default_factory=dict)
    server: Server | None = None

    def run(self, *options: str, **settings: Any) -> subprocess.CompletedProcess[str]:
        """Run the doctor with the settings of the node, and some others."""
        merged = {"node_name": NAME, "database_url": self.database_url, **self.settings, **settings}
        variables = environment(self.folder, merged.pop("database_url"), **merged)
        (self.folder / "password").chmod(0o600)
        return subprocess.run(
            [sys.executable, "-m", "comms_api", "doctor", *options],
            cwd=self.folder,
            env=variables,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def examine(self, *options: str, **settings: Any) -> Sequence[Finding]:
        """Run the doctor and return its findings that are not ok; the exit code must agree."""
        done = self.run("--json", *options, **settings)
        assert done.returncode in {0, 1}, done.stderr
        found: list[Finding] = json.loads(done.stdout)
        wrong = [finding for finding in found if finding["status"] != "ok"]
        assert all(bool(finding["problem"] and finding["remedy"]) == (finding in wrong) for finding in found), found
        assert done.returncode == bool(wrong)
        return wrong

    def expect(self, check: str, status: str, words: str, *options: str, **settings: Any) -> None:
        """Wait until a check has a finding whose subject, problem or remedy contains some words."""

        def is_found() -> bool:
            return any(
                words in f"{finding['subject']}: {finding['problem']} → {finding['remedy']}"
                for finding in self.examine(*options, **settings)
                if (finding["check"], finding["status"]) == (check, status)
            )

        wait_until(is_found, says=lambda: self.examine(*options, **settings))

    def expect_no_finding(self) -> None:
        """Wait until all is well; on a busy machine, a duty may be late for a moment."""
        wait_until(lambda: self.examine() == [], says=self.examine)

    def query(self, statement: str) -> list[asyncpg.Record]:
        assert self.database_url is not None
        return querying(self.database_url)(statement)

    def start(self, **settings: Any) -> Any:
        """Return a context in which the node runs."""
        self.settings |= settings
        return running_server(self.folder, self.database_url, **{"node_name": NAME, **self.settings})
