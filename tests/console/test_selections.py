"""Selections: what the page shows is what an action changes."""

import re
from collections.abc import Callable

import httpx
import pytest
from playwright.sync_api import expect
from support.browsers import Console
from support.server import Server

from comms_api.console.queries import ROWS


@pytest.fixture(scope="module")
def fleet(server: Server, management: httpx.Client) -> list[str]:
    """The ids of more agents than a page shows."""
    management.post("/groups", json={"name": "chosen"}).raise_for_status()
    return [str(server.enroll(management, f"host-{number:02}")) for number in range(ROWS + 5)]


def names_of(management: httpx.Client, **query: str) -> set[str]:
    return {agent["name"] for agent in management.get("/agents", params={"limit": "1000", **query}).json()["items"]}


def test_checked_agents_join_a_group(console: Console, management: httpx.Client, fleet: list[str]) -> None:
    page = console.page
    console.open("/console/agents?name=host-0")
    page.get_by_role("button", name="Select checked agents").click()
    expect(page.get_by_role("alert")).to_contain_text("No agent is selected")
    page.get_by_label("Check host-01").check()
    page.get_by_label("Check host-03").check()
    page.evaluate("htmx.trigger(document.body, 'changed')")  # the live part loads again
    console.settle()
    expect(page.get_by_label("Check host-03")).to_be_checked()
    page.get_by_role("button", name="Select checked agents").click()
    expect(page.get_by_role("heading", name="2 agents selected")).to_be_visible()
    page.get_by_label("Group").fill("absent")
    page.get_by_role("button", name="Add to the group").click()
    expect(page.get_by_role("alert")).to_contain_text("There is no group 'absent'")
    page.get_by_label("Group").fill("chosen")
    page.get_by_role("button", name="Add to the group").click()
    expect(page.get_by_role("heading", name="Add to chosen: 2 of 2 agents")).to_be_visible()
    expect(page.get_by_text("2 were changed")).to_be_visible()
    assert names_of(management, group="chosen") == {"host-01", "host-03"}
    console.check("selection")
    page.get_by_role("button", name="Remove from the group").click()
    expect(page.get_by_role("heading", name="Remove from chosen: 2 of 2 agents")).to_be_visible()
    assert names_of(management, group="chosen") == set()
    assert fleet


def test_all_that_match_are_blocked_and_no_others(
    console: Console, server: Server, management: httpx.Client, fleet: list[str]
) -> None:
    page = console.page
    console.accept_questions()
    console.open("/console/agents?name=host-")
    page.get_by_role("link", name="Next page").click()
    page.get_by_role("button", name="Select all that match").click()
    expect(page.get_by_role("heading", name=f"{len(fleet)} agents selected")).to_be_visible()
    expect(page.get_by_text("name: host-")).to_be_visible()
    server.enroll(management, "host-later")
    page.get_by_role("button", name=f"Block {len(fleet)} agents", exact=True).click()
    expect(page.get_by_role("heading", name=f"Block: {len(fleet)} of {len(fleet)} agents")).to_be_visible()
    shown = management.get("/agents", params={"limit": "1000", "name": "host-*"}).json()["items"]
    assert {agent["id"] for agent in shown if agent["is_blocked"]} == set(fleet)
    selection_id = page.url.rpartition("/")[2]
    [entry] = management.get("/audit", params={"subject": "selections", "key": selection_id}).json()["items"]
    assert entry["actor"] == "admin"
    assert entry["after"] == {"action": "block", "agents": len(fleet), "query": "name=host-"}
    page.get_by_role("button", name=f"Unblock {len(fleet)} agents", exact=True).click()
    expect(page.get_by_role("heading", name=f"Unblock: {len(fleet)} of {len(fleet)} agents")).to_be_visible()
    expect(page.get_by_role("link", name="Send a command")).to_have_attribute("href", re.compile(selection_id))
    console.open("/console/selections")
    expect(page.get_by_role("region", name="Selections")).to_contain_text("Unblock")
    console.check("selections")


def test_all_boxes_of_a_page_are_checked_by_the_keyboard(console: Console, fleet: list[str]) -> None:
    page = console.page
    console.open("/console/agents")
    page.get_by_label("Check all agents of this page").press("Space")
    page.get_by_role("button", name="Select checked agents").press("Enter")
    expect(page.get_by_role("heading", name=f"{ROWS} agents selected")).to_be_visible()
    expect(page.get_by_role("region", name="Selected agents").get_by_role("row")).to_have_count(ROWS + 1)
    assert fleet


def test_a_selection_is_private_and_needs_an_operator(
    console: Console, new_console: Callable[..., Console], server: Server, management: httpx.Client, fleet: list[str]
) -> None:
    server.user(management, "other", "operator")
    server.user(management, "reader", "reader")
    console.open("/console/agents?name=host-00")
    console.page.get_by_role("button", name="Select all that match").click()
    expect(console.page.get_by_role("heading", name="1 agent selected")).to_be_visible()
    other = new_console()
    other.enter("other")
    assert other.open(console.page.url).status == 404
    other.open("/console/selections")
    expect(other.page.get_by_role("heading", name="You have no selection")).to_be_visible()
    other.check("selections-empty")
    reader = new_console()
    reader.enter("reader")
    assert reader.open("/console/selections").status == 403
    reader.open("/console/agents")
    expect(reader.page.get_by_role("checkbox")).to_have_count(0)
    assert fleet
