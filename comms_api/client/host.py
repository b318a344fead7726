"""Describe the host. The system's names may be any bytes, so they are turned into text."""

import platform
from pathlib import Path

from comms_api.protocol import Host, OperatingSystem
from comms_api.text.printable import as_text

OS_RELEASE = Path("/etc/os-release")


def this_host() -> Host:
    """Describe the machine that the agent runs on."""
    release = read_release(OS_RELEASE)
    system = OperatingSystem(release.get("NAME", platform.system()), platform.system(), release.get("VERSION_ID"))
    return Host(as_text(platform.node()), system, (), platform.machine())


def read_release(path: Path) -> dict[str, str]:
    """Return the assignments in a file like os-release(5), in any encoding, or none if it is unreadable."""
    try:
        text = path.read_bytes().decode(errors="backslashreplace")
    except OSError:
        return {}
    assignments = (line.partition("=") for line in text.splitlines())
    return {name.strip(): _unquoted(value.strip()) for name, equals, value in assignments if equals}


def _unquoted(value: str) -> str:
    return value[1:-1] if value[:1] in {'"', "'"} and value[:1] == value[-1:] else value
