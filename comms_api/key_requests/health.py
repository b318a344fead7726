"""Check the sources at a node's start: stop if a source can never work, warn if it may work later."""

import logging
import os
import pwd
from pathlib import Path

from comms_api.errors import ConfigurationError
from comms_api.key_requests.model import KeySettings
from comms_api.key_requests.sources.sockets import SocketSource

logger = logging.getLogger(__name__)

CHECK_SECONDS = 2.0


def check_program(settings: KeySettings) -> None:
    """Raise `ConfigurationError` if the program, the script that it interprets, or its user cannot be used."""
    program, *arguments = settings.program
    _check_file(Path(program))
    if not os.access(program, os.X_OK):
        raise ConfigurationError(f"program: {program} is not executable")
    if arguments and arguments[0].startswith("/"):
        _check_file(Path(arguments[0]))
    _check_user(settings.program_user)


def _check_file(path: Path) -> None:
    if not path.exists():
        raise ConfigurationError(f"program: {path} does not exist")
    if not path.is_file():
        raise ConfigurationError(f"program: {path} is not a file")


def _check_user(name: str | None) -> None:
    if name is None:
        if os.getuid() == 0:
            logger.warning("program_user is not set: the program of key requests runs as root")
        return
    try:
        uid = pwd.getpwnam(name).pw_uid
    except KeyError:
        raise ConfigurationError(f"program_user: there is no user {name}") from None
    if os.getuid() not in {0, uid}:
        raise ConfigurationError("program_user: only root can run a program as another user")


async def check_socket(path: Path) -> None:
    """Connect and close; raise `ConfigurationError` if this is no socket or denies access, warn if it is silent."""
    try:
        _check_kind(path)
        await SocketSource(path, answer_bytes_maximum=1).check(CHECK_SECONDS)
    except PermissionError:
        raise ConfigurationError(f"socket: this user has no permission to connect to {path}") from None
    except OSError as error:
        logger.warning("nothing answers on the socket of key requests yet: %s: %s", path, error.strerror or "timeout")


def _check_kind(path: Path) -> None:
    if path.exists() and not path.is_socket():
        raise ConfigurationError(f"socket: {path} is not a socket")
