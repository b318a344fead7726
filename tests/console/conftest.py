"""A browser for each module, and windows of it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser
from support.browsers import Console, running_chromium
from support.server import Server


@pytest.fixture(scope="module")
def browser(scratch: Path) -> Iterator[Browser]:
    """A browser. It ends with the module, since Playwright's loop occupies the thread that other modules need."""
    folder = scratch / "browser"
    folder.mkdir(exist_ok=True)
    with running_chromium(folder) as browser:
        yield browser


@pytest.fixture
def new_console(browser: Browser, server: Server) -> Iterator[Callable[..., Console]]:
    """Opens a window; a window must end without faults."""
    opened: list[Console] = []

    def create(**options: Any) -> Console:
        opened.append(Console(browser, server, **options))
        return opened[-1]

    yield create
    for console in opened:
        console.context.close()
    assert [fault for console in opened for fault in console.faults] == []


@pytest.fixture
def console(new_console: Callable[..., Console]) -> Console:
    """A window of the administrator."""
    console = new_console()
    console.enter()
    return console
