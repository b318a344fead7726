"""Back up and restore nodes as operators do, and change archives as attackers do."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from zipfile import ZipFile

from support.waiting import PATIENCE

Run = subprocess.CompletedProcess[str]


def comms_api(environment: Mapping[str, str], folder: Path, *words: str | Path) -> Run:
    """Run a command of the command line in a folder."""
    command = [sys.executable, "-m", "comms_api", *map(str, words)]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE
    )


def succeeding(environment: Mapping[str, str], folder: Path, *words: str | Path) -> str:
    """Run a command that must succeed, and return its output."""
    done = comms_api(environment, folder, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def failing(environment: Mapping[str, str], folder: Path, *words: str | Path) -> str:
    """Run a command that must fail, and return its error: one line."""
    done = comms_api(environment, folder, *words)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("comms-api: ").strip()


def rewrite(source: Path, target: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """Copy an archive with changed members, whose sizes and checksums in the manifest are right."""
    with ZipFile(source) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(contents.pop("manifest.json"))
    contents = {name: change(name, content) for name, content in contents.items()}
    for name, content in contents.items():
        manifest["members"][name] |= {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    contents["manifest.json"] = change("manifest.json", json.dumps(manifest).encode())
    with ZipFile(target, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return target
