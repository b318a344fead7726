"""Divide a process's limit of open files among its connections."""

import logging
import resource

import msgspec

from comms_api.settings import Settings

logger = logging.getLogger(__name__)

FILES_MAXIMUM = 2**20
"""Enough for any node; some systems set no limit, which could not be divided."""

RESERVED_FILES = 48
"""For the interpreter, logs, the event loop and listening sockets."""

MANAGEMENT_SHARE = 8
"""The management API gets one connection in this many."""


class Capacity(msgspec.Struct, frozen=True):
    """The maximum number of connections of each API in one process."""

    agents: int
    management: int


def raise_files_maximum() -> None:
    """Raise the soft limit of open files to the hard one, up to `FILES_MAXIMUM`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    maximum = FILES_MAXIMUM if hard == resource.RLIM_INFINITY else min(hard, FILES_MAXIMUM)
    if soft != resource.RLIM_INFINITY and soft < maximum:
        resource.setrlimit(resource.RLIMIT_NOFILE, (maximum, hard))


def capacity_of(settings: Settings) -> Capacity:
    """Return how many connections fit within the limit of open files, besides the other files of the process."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = FILES_MAXIMUM if soft == resource.RLIM_INFINITY else soft
    other = RESERVED_FILES + settings.database_pool_size + 6 * settings.key_request_threads
    left = max(files - other, 2 * MANAGEMENT_SHARE)
    management = left // MANAGEMENT_SHARE
    return Capacity(left - management, management)


def log_capacity(settings: Settings) -> None:
    """Log the maximum number of polls."""
    polls = capacity_of(settings).agents * settings.workers
    logger.info("the limit of open files leaves room for %d connections of agents, one for each poll", polls)
