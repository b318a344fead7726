"""Bounds of CPU time that grow with the slowness of the machine.

The CPU time of the same work grows when other processes use the same core or its caches, and in a virtual machine.
"""

import json
import re
import time

from comms_api.fairness.metering import STEP_SECONDS_MAXIMUM
from support.server import Server

USUAL_SECONDS = 0.01
"""The CPU time of `_work` on the idle machine on which the bounds were chosen."""


def slowness() -> float:
    """Return how many times the usual CPU time the same work takes now, at least 1."""
    return max(1.0, max(_work() for _ in range(10)) / USUAL_SECONDS)


def assert_no_long_step(server: Server, name: str = "") -> None:
    """Assert that no step on the event loop whose name has this part took much longer than a step may take."""
    log = (server.folder / "log").read_text()
    steps = re.findall(rf"^.*{re.escape(name)}.* blocked the event loop for (\d+) ms$", log, re.MULTILINE)
    longest_seconds = max(map(int, steps), default=0) / 1_000
    assert longest_seconds <= 2 * STEP_SECONDS_MAXIMUM * slowness(), f"{longest_seconds} s; {log[-10_000:]}"


def _work() -> float:
    """Return the CPU seconds of computing in Python and in C, with much memory."""
    began = time.thread_time()
    items = [{"id": str(number), "data": {"n": number}} for number in range(5_000)]
    text = json.dumps(items)
    assert len(json.loads(text)) == len(items)
    return time.thread_time() - began
