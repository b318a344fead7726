"""`docs/migration.md` names only existing calls and settings."""

import re
from pathlib import Path

import pytest

from comms_api.agents.routes import AGENT_ROUTES as ENROLLING
from comms_api.app.apis import MANAGEMENT_HANDLERS
from comms_api.events.routes import AGENT_ROUTES as SENDING_EVENTS
from comms_api.files.routes import AGENT_ROUTES as FETCHING
from comms_api.login.routes import ROUTES as LOGGING_IN
from comms_api.old_names import OLD_NAMES
from comms_api.orders.routes import AGENT_ROUTES as POLLING
from comms_api.settings import Settings
from comms_api.states.routes import AGENT_ROUTES as SENDING_STATES

PAGE = Path("docs/migration.md").read_text()
HANDLERS = [*MANAGEMENT_HANDLERS, *ENROLLING, *POLLING, *SENDING_EVENTS, *SENDING_STATES, *FETCHING, *LOGGING_IN]
CALLS = {
    (method, re.sub(r"\{[^}]*\}", "{}", path))
    for handler in HANDLERS
    for method in handler.http_methods
    for path in handler.paths
}


def cells(heading: str) -> list[str]:
    """Return the second column of a section's table."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return [line.split("|")[2] for line in section.splitlines() if line.startswith("| ")][1:]


@pytest.mark.parametrize("heading", ["Calls of agents", "Calls of operators and programs"])
def test_each_named_call_exists(heading: str) -> None:
    named = re.findall(r"`([A-Z]+) (/[^`]*)`", " ".join(cells(heading)))
    assert len(named) > 5
    assert {(method, re.sub(r"\{[^}]*\}", "{}", path)) for method, path in named} <= CALLS


def test_each_named_setting_exists() -> None:
    named = {name for cell in cells("Settings") for name in re.findall(r"`([a-z_]+)`", cell)}
    assert len(named) > 15
    assert named <= set(Settings.__struct_fields__)


def test_each_old_name_is_on_the_page() -> None:
    for name in OLD_NAMES:
        assert f"`{name}`" in PAGE
