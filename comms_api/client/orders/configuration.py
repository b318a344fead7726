"""The files of the agent's groups: a local copy of the server's files, reported by a hash."""

import asyncio
import hashlib
import re
from collections.abc import Collection
from functools import partial
from pathlib import Path

import httpx
import msgspec

from comms_api.client.threads import Background
from comms_api.client.transport.calls import Call
from comms_api.client.transport.session import Session
from comms_api.protocol import ExpectedFile, ExpectedFiles

DISK_SECONDS = 120.0
_SAFE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


class Configuration:
    """A folder with the files of the agent's groups; a slow disk delays only the order that fetches them."""

    def __init__(self, session: Session, folder: Path) -> None:
        self._session = session
        self._folder = folder
        self._disk = Background()
        self._is_fetching = asyncio.Lock()

    async def fetch(self) -> dict[str, str]:
        """Make the folder equal to the server's files and report it; return the files' hashes by name.

        If a file changes while it is fetched, nothing is reported: another order announces the change.
        """
        async with self._is_fetching:
            files = (await self._session.ask(Call("GET", "/configuration"), ExpectedFiles)).files
            # If several groups have a file of one name, the last one counts.
            hashes = {file.name: file.sha256 for file in files if _SAFE_NAME.fullmatch(file.name)}
            stored = await self._disk.run(partial(_clean, self._folder, hashes.keys()), DISK_SECONDS)
            for name, sha256 in hashes.items():
                if stored.get(name) != sha256:
                    await self._fetch(name, sha256)
            if await self._disk.run(partial(_clean, self._folder, hashes.keys()), DISK_SECONDS) == hashes:
                await self._report(files)
            return hashes

    async def _fetch(self, name: str, sha256: str) -> None:
        answer = await self._session.send(Call("GET", f"/files?file_name={name}", may_be_missing=True))
        if answer.status_code != httpx.codes.NOT_FOUND:
            await self._disk.run(partial(_store, self._folder / name, answer.content, sha256), DISK_SECONDS)

    async def _report(self, files: list[ExpectedFile]) -> None:
        lines = sorted((file.group, file.name, file.sha256) for file in files)
        text = "".join(f"{group}/{name} {sha256}\n" for group, name, sha256 in lines)
        content = msgspec.json.encode({"sha256": hashlib.sha256(text.encode()).hexdigest()})
        await self._session.send(Call("PUT", "/configuration", content))


def _clean(folder: Path, names: Collection[str]) -> dict[str, str]:
    """Delete the files with other names, and return the hashes of the files that are left."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    hashes: dict[str, str] = {}
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink()
        elif path.is_file():
            with path.open("rb") as file:
                hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def _store(path: Path, content: bytes, sha256: str) -> None:
    """Replace a file, unless the content has another hash."""
    if hashlib.sha256(content).hexdigest() == sha256:
        draft = path.with_name(f".{path.name}")
        draft.write_bytes(content)
        draft.replace(path)
