"""Execute the program of a key request with resource limits, as an unprivileged user.

`sources.ProgramSource` runs this as a script. It cannot do this between fork and exec, since other threads may hold
locks then. Arguments: the user (empty: the current one), the memory in bytes, the processor time in seconds, and the
command. Exits like a shell: 127 if the command is not found, 126 if it cannot be executed.
"""

import os
import pwd
import resource
import sys

NOT_EXECUTABLE = 126
NOT_FOUND = 127
NICENESS = 10
PROCESSES_MAXIMUM = 1024
"""Applies only to a separate user: the kernel counts all processes of a user, the server's included."""


def main(user: str, memory_bytes: str, cpu_seconds: str, *command: str) -> int:
    """Lower the priority, set the limits, switch to the user, and execute the command; return only when that fails."""
    os.nice(NICENESS)
    os.umask(0o077)
    _limit(resource.RLIMIT_AS, int(memory_bytes))
    _limit(resource.RLIMIT_CPU, int(cpu_seconds))
    _limit(resource.RLIMIT_CORE, 0)  # a core dump would contain the key
    if user:
        _become(pwd.getpwnam(user))
    try:
        os.execv(command[0], command)  # noqa: S606 - never a shell
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        return NOT_FOUND if isinstance(error, FileNotFoundError | NotADirectoryError) else NOT_EXECUTABLE


def _limit(resource_kind: int, maximum: int) -> None:
    hard = resource.getrlimit(resource_kind)[1]
    bound = maximum if hard == resource.RLIM_INFINITY else min(maximum, hard)
    resource.setrlimit(resource_kind, (bound, bound))


def _become(user: pwd.struct_passwd) -> None:
    if user.pw_uid == os.getuid():
        return
    _limit(resource.RLIMIT_NPROC, PROCESSES_MAXIMUM)
    os.initgroups(user.pw_name, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
