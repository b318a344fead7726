"""The description of each API at `/schema`, in a browser: every operation, and no request to another host."""

import json
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from playwright.sync_api import expect
from support.browsers import PHONE, Console
from support.server import Server

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "openapi"


@pytest.fixture(scope="module")
def agent_id(server: Server, management: httpx.Client) -> UUID:
    return server.enroll(management, "described")


@pytest.fixture
def agent_window(new_console: Callable[..., Console], server: Server, agent_id: UUID) -> Console:
    """A window that sends an agent's token: people have no access to the agent API."""
    headers = {"Authorization": f"Bearer {server.token(agent_id)}"}
    return new_console(url=server.agent_url, extra_http_headers=headers)


def test_the_management_api_shows_its_operations_to_a_user_of_the_console(console: Console) -> None:
    with console.page.expect_navigation():
        console.page.get_by_role("link", name="API", exact=True).click()
    check_description(console, "management.json", "GET /agents/{agent}")


def test_the_agent_api_shows_its_operations_to_an_agent(agent_window: Console) -> None:
    check_description(agent_window, "agents.json", "POST /login")


def test_the_page_is_accessible(agent_window: Console) -> None:
    agent_window.open("/schema")
    agent_window.check_accessibility()


def check_description(window: Console, name: str, call: str) -> None:
    described = json.loads((REFERENCE / name).read_text())["paths"]
    operations = {f"{method.upper()} {path}" for path, methods in described.items() for method in methods}
    answer = window.open("/schema")
    assert answer.status == 200
    page = window.page
    assert set(page.locator("h3 code").all_inner_texts()) == operations
    sample = page.locator(f"h3:has-text('{call}') ~ details").first
    expect(sample.locator("pre").first).not_to_be_visible()
    sample.locator("summary").click()
    expect(sample.locator("pre").first).to_be_visible()
    page.set_viewport_size(PHONE)
    window.check_width(PHONE["width"])
    with page.expect_navigation() as following:
        page.get_by_role("link", name="openapi.json").click()
    assert following.value.json()["paths"].keys() == described.keys()
    assert window.faults == []
