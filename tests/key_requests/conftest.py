"""No log may contain the key, whatever a source does."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.sources import KEY


@pytest.fixture(autouse=True)
def _no_key_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    assert KEY not in caplog.text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A path for a socket."""
    return tmp_path / "keys.sock"
