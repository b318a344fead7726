"""Start the programs of key requests: a small process, because it takes long to fork the server's large one.

`programs.Launcher` runs this as a script, once. It applies the user and the limits between fork and exec, which is safe
here, since there are no other threads. Arguments: the user (empty: the current one), the memory in bytes, the processor
time in seconds, and the command.

Standard input is a socket. Each message is the last arguments of one run, separated by a space, and brings the write
ends of three pipes: for the output, for standard error, and for the report. The report is the id of the process, and
after its end the exit code, each on a line. The exit code is a shell's: 127 if the command is not found, 126 if it
cannot be executed; a signal is negative.
"""

import os
import pwd
import resource
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

NOT_EXECUTABLE = 126
NOT_FOUND = 127
NICENESS = 10
AUTOGROUP = Path("/proc/self/autogroup")
PROCESSES_MAXIMUM = 1024
"""Applies only to a separate user: the kernel counts all processes of a user, the server's included."""

MESSAGE_BYTES_MAXIMUM = 4096
PIPES = 3


def main(user: str, memory_bytes: str, cpu_seconds: str, *command: str) -> None:
    """Switch to the user, and start a program for each message until the server closes the socket."""
    _lower_priority()
    os.umask(0o077)
    if user:
        _become(pwd.getpwnam(user))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the processes that watch the programs
    server = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    while True:
        message, pipes, _, _ = socket.recv_fds(server, MESSAGE_BYTES_MAXIMUM, PIPES, socket.MSG_CMSG_CLOEXEC)
        if not message:
            return
        words = (*command, *message.decode().split(" "))

        def watch() -> None:
            server.close()  # otherwise the socket would accept a message after the death of this process
            _watch(words, pipes, int(memory_bytes), int(cpu_seconds))  # noqa: B023 - it runs now

        with suppress(OSError):  # no process can be started: the report ends without an id
            _in_child(watch)
        for pipe in pipes:
            os.close(pipe)


def _lower_priority() -> None:
    """Give the server priority over this process and its programs.

    On Linux, niceness applies within an autogroup, one per session, unless control groups share the CPU (sched(7)).
    """
    os.nice(NICENESS)
    with suppress(OSError):  # this kernel has no autogroups, or has just changed the priority of another one
        AUTOGROUP.write_text(str(NICENESS))


def _in_child(work: Callable[[], None]) -> int:
    """Fork, do the work in the child, and return the child's id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    finally:
        os._exit(NOT_EXECUTABLE)


def _watch(words: tuple[str, ...], pipes: Sequence[int], memory_bytes: int, cpu_seconds: int) -> None:
    """Start a program, report its end, and kill the remainder of its process group."""
    output, errors, report = pipes
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = _in_child(lambda: _execute(words, pipes, memory_bytes, cpu_seconds))
    os.close(output)
    os.close(errors)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # until it is reaped, no other group can have its id
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.write(report, b"%d\n" % os.waitstatus_to_exitcode(status))


def _execute(words: tuple[str, ...], pipes: Sequence[int], memory_bytes: int, cpu_seconds: int) -> NoReturn:
    """Become the program, in a new process group and within the limits."""
    output, errors, report = pipes
    os.setpgid(0, 0)
    os.write(report, b"%d\n" % os.getpid())
    os.dup2(output, 1)
    os.dup2(errors, 2)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them
        signal.signal(number, signal.SIG_DFL)
    _limit(resource.RLIMIT_CORE, 0)  # a core dump would contain the key
    _limit(resource.RLIMIT_CPU, cpu_seconds)
    _limit(resource.RLIMIT_AS, memory_bytes)
    try:
        os.execv(words[0], words)  # noqa: S606 - never a shell
    except OSError as error:
        os.write(2, f"{words[0]}: {error.strerror}\n".encode())
        os._exit(NOT_FOUND if isinstance(error, FileNotFoundError | NotADirectoryError) else NOT_EXECUTABLE)


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
    main(*sys.argv[1:])
