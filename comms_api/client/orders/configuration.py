"""The files of the agent's groups: a local copy of the server's files, reported by a hash."""

import hashlib
import re
from pathlib import Path

import httpx
import msgspec

from comms_api.client.transport.calls import Call
from comms_api.client.transport.session import Session
from comms_api.protocol import ExpectedFile, ExpectedFiles

_SAFE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


class Configuration:
    """A folder with the files of the agent's groups."""

    def __init__(self, session: Session, folder: Path) -> None:
        self._session = session
        self._folder = folder

    async def fetch(self) -> dict[str, str]:
        """Make the folder equal to the server's files and report it; return the files' hashes by name.

        If a file changes while it is fetched, nothing is reported: another order announces the change.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        files = (await self._session.ask(Call("GET", "/configuration"), ExpectedFiles)).files
        # If several groups have a file of one name, the last one counts.
        hashes = {file.name: file.sha256 for file in files if _SAFE_NAME.fullmatch(file.name)}
        for name, sha256 in hashes.items():
            if _hash(self._folder / name) != sha256:
                await self._fetch(name, sha256)
        for path in self._folder.iterdir():
            if path.name not in hashes:
                path.unlink()
        if all(_hash(self._folder / name) == sha256 for name, sha256 in hashes.items()):
            await self._report(files)
        return hashes

    async def _fetch(self, name: str, sha256: str) -> None:
        answer = await self._session.send(Call("GET", f"/files?file_name={name}", may_be_missing=True))
        if answer.status_code != httpx.codes.NOT_FOUND and hashlib.sha256(answer.content).hexdigest() == sha256:
            draft = self._folder / f".{name}"
            draft.write_bytes(answer.content)
            draft.replace(self._folder / name)

    async def _report(self, files: list[ExpectedFile]) -> None:
        lines = sorted((file.group, file.name, file.sha256) for file in files)
        text = "".join(f"{group}/{name} {sha256}\n" for group, name, sha256 in lines)
        content = msgspec.json.encode({"sha256": hashlib.sha256(text.encode()).hexdigest()})
        await self._session.send(Call("PUT", "/configuration", content))


def _hash(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
