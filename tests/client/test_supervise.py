"""A failure of one task of the agent is logged once and retried, and the other tasks continue."""

import asyncio
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from comms_api.client import backoff
from comms_api.client.host import read_release
from comms_api.client.inventory.collectors import COLLECTORS
from comms_api.client.inventory.scan import Scan
from comms_api.client.supervise import keep_going
from comms_api.client.threads import Background
from comms_api.errors import Unauthenticated


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    monkeypatch.setattr(backoff, "FIRST_SECONDS", 0.001)
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage() for record in caplog.records]


class Failing:
    """A step that fails as scripted, finally because the server no longer knows the agent."""

    def __init__(self, *errors: Exception | None) -> None:
        self._errors = [*errors, Unauthenticated("Agent does not exist")]

    async def step(self) -> None:
        error = self._errors.pop(0)
        if error is not None:
            raise error


def test_a_failing_task_is_logged_once_until_it_recovers_or_its_error_changes(logged: Callable[[], list[str]]) -> None:
    full, denied = OSError("full"), PermissionError("denied")
    failing = Failing(full, full, full, denied, denied, None, None, denied, KeyError("bug"))
    with pytest.raises(Unauthenticated):
        asyncio.run(keep_going("writing", failing.step))
    prefix = "writing failed and will be retried: "
    assert logged() == [
        f"{prefix}OSError: full",
        f"{prefix}PermissionError: denied",
        "writing succeeds again",
        f"{prefix}PermissionError: denied",
        f"{prefix}KeyError: 'bug'",
    ]


def test_a_collector_fails_alone_and_is_retried(
    logged: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "stat").write_text("cpu 1 2 3\n")
    scan = Scan("processes", COLLECTORS["processes"])
    with monkeypatch.context() as patch:
        patch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
        assert asyncio.run(scan.run()) is None
        assert asyncio.run(scan.run()) is None
    assert asyncio.run(scan.run())
    first, last = logged()
    assert first.startswith("collecting processes failed and will be retried: RuntimeError: line 'btime' not found")
    assert last == "collecting processes succeeds again"


def test_a_hanging_call_times_out_and_is_not_made_twice() -> None:
    is_released = threading.Event()
    background = Background()
    with pytest.raises(TimeoutError, match=r"within 0\.01 seconds"):
        asyncio.run(background.run(is_released.wait, 0.01))
    with pytest.raises(TimeoutError, match="has not ended yet"):
        asyncio.run(background.run(is_released.wait, 0.01))
    is_released.set()


def test_a_release_file_in_any_encoding_is_read(tmp_path: Path) -> None:
    path = tmp_path / "os-release"
    path.write_bytes(b"NAME=\"Caf\xe9 'Linux'\"\n# comment\nVERSION_ID='1'\n\n")
    assert read_release(path) == {"NAME": "Caf\\xe9 'Linux'", "VERSION_ID": "1"}
    assert read_release(tmp_path / "absent") == {}
