"""The packages installed on this host by dpkg, apk and rpm."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from threading import Timer

import msgspec

from comms_api.client.supervise import Health

DPKG_DATABASE = "var/lib/dpkg/status"
APK_DATABASES = ("lib/apk/db/installed", "usr/lib/apk/db/installed")
RPM_FOLDERS = ("var/lib/rpm", "usr/lib/sysimage/rpm")
RPM_DATABASES = ("rpmdb.sqlite", "Packages", "Packages.db")
DATABASE_BYTES_MAXIMUM = 128 * 2**20
RPM_SECONDS = 60.0

_WITHOUT_FILES = {"not-installed", "config-files", "half-installed"}
"""The states of dpkg(1) in which some or all files of a package are missing from the disk."""
_RPM_FORMAT = r"%{NAME}\t%|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}\t%{ARCH}\n"
_RPM_KEYS = "gpg-pubkey"
"""rpm lists the keys that it trusts as packages of this name."""


class Package(msgspec.Struct, frozen=True):
    """An installed package; `type` is the format of its file: deb, apk or rpm."""

    name: str
    version: str
    architecture: str
    type: str


class PackageDatabases:
    """The databases of the package managers below a root folder."""

    def __init__(self, root: Path = Path("/"), find_program: Callable[[str], str | None] = shutil.which) -> None:
        self._root = root
        self._find_program = find_program
        self._rpm_health = Health("collecting rpm packages")

    def read(self) -> Iterator[Package]:
        """Yield every package; raises `OSError` if a database exists but is unreadable."""
        yield from _dpkg_packages(_paragraphs(self._root / DPKG_DATABASE))
        for name in APK_DATABASES:
            yield from _apk_packages(_paragraphs(self._root / name))
        for name in RPM_FOLDERS:
            folder = self._root / name
            if not folder.is_symlink() and any((folder / database).exists() for database in RPM_DATABASES):
                yield from self._rpm_packages(folder)

    def _rpm_packages(self, folder: Path) -> Iterator[Package]:
        program = self._find_program("rpm")
        if program is None:
            self._rpm_health.failed(FileNotFoundError(f"{folder} exists, but its reader, the program rpm, does not"))
            return
        output = _run([program, "--dbpath", str(folder), "-qa", "--queryformat", _RPM_FORMAT])
        self._rpm_health.succeeded()
        for line in output.decode(errors="replace").splitlines():
            name, version, architecture = line.split("\t")
            if name != _RPM_KEYS:
                yield Package(name, version, architecture, "rpm")


def _paragraphs(path: Path) -> Iterator[dict[str, str]]:
    """Yield the fields of each paragraph of a text database; nothing if it does not exist."""
    if not path.exists():
        return
    if path.stat().st_size > DATABASE_BYTES_MAXIMUM:
        raise OSError(f"{path} is larger than {DATABASE_BYTES_MAXIMUM} bytes")
    for paragraph in path.read_text(errors="replace").split("\n\n"):
        fields: dict[str, str] = {}
        for line in paragraph.splitlines():
            name, colon, value = line.partition(":")
            if colon and not line.startswith(" "):
                fields.setdefault(name, value.strip())
        yield fields


def _dpkg_packages(paragraphs: Iterable[dict[str, str]]) -> Iterator[Package]:
    for fields in paragraphs:
        state = fields.get("Status", "").rpartition(" ")[2]
        if state and state not in _WITHOUT_FILES:
            yield Package(fields.get("Package", ""), fields.get("Version", ""), fields.get("Architecture", ""), "deb")


def _apk_packages(paragraphs: Iterable[dict[str, str]]) -> Iterator[Package]:
    for fields in paragraphs:
        if "P" in fields:
            yield Package(fields["P"], fields.get("V", ""), fields.get("A", ""), "apk")


def _run(command: list[str]) -> bytes:
    """Return a program's output; end the program at the limits of time and bytes."""
    with subprocess.Popen(  # noqa: S603 - the program is in PATH, its arguments are ours
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "LC_ALL": "C"},
        start_new_session=True,  # so that it ends with its children
    ) as process:
        end = partial(os.killpg, process.pid, signal.SIGKILL)
        timer = Timer(RPM_SECONDS, end)
        timer.daemon = True
        timer.start()
        output = process.stdout.read(DATABASE_BYTES_MAXIMUM) if process.stdout else b""
        end() if len(output) == DATABASE_BYTES_MAXIMUM else process.wait()
        timer.cancel()
    if process.returncode != 0:
        raise OSError(f"{' '.join(command[:3])} -qa ended with code {process.returncode}")
    return output
