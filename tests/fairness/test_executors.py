"""Threads that compute leave the interpreter to the event loop."""

import statistics
import sys
import time
from collections.abc import Iterator
from threading import Event, Thread

import pytest

from comms_api.fairness.executors import SWITCH_SECONDS, let_threads_switch_often

SLEEP_SECONDS = 0.001


@pytest.fixture
def computing() -> Iterator[Thread]:
    """A thread that never waits."""
    is_over = Event()

    def compute() -> None:
        while not is_over.is_set():
            sum(range(100))

    thread = Thread(target=compute)
    thread.start()
    yield thread
    is_over.set()
    thread.join()


@pytest.fixture
def switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    let_threads_switch_often()
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("switching")
def test_a_thread_computes_for_half_a_millisecond_while_another_waits_for_the_interpreter(computing: Thread) -> None:
    assert computing.ident is not None
    clock, computed = time.pthread_getcpuclockid(computing.ident), list[float]()
    for _ in range(100):
        before = time.clock_gettime(clock)
        time.sleep(SLEEP_SECONDS)  # gives up the interpreter, and then waits for it
        computed.append(time.clock_gettime(clock) - before)
    # On a busy machine the sleep takes longer, so most values say little.
    assert statistics.quantiles(computed, n=10)[0] <= SLEEP_SECONDS + 3 * SWITCH_SECONDS
