"""Faults of forms appear at their fields."""

import re

import httpx
import pytest
from playwright.sync_api import Locator, expect
from support.browsers import Console
from support.server import Server

HOSTILE = "x: y; commands[0].timeout: <img src=x onerror=document.title='hacked'>\"'/~\x1b"
SCHEMA = {
    "type": "object",
    "required": ["path", "depth"],
    "properties": {
        "path": {"type": "string", "title": "Folder", "description": "Where the scan begins."},
        "depth": {"type": "integer", "maximum": 9},
        "globs": {"type": "array", "items": {"type": "string", "pattern": "^[a-z*.]+$"}},
        "limits": {"type": "object", "properties": {"cpu": {"type": "integer", "multipleOf": 5}}},
        "extra": {},
        HOSTILE: {"type": "string", "title": "Hostile", "pattern": "^a+$"},
    },
}


@pytest.fixture(scope="module", autouse=True)
def fleet(server: Server, management: httpx.Client) -> None:
    management.put("/actions/scan", json={"schema": SCHEMA}).raise_for_status()
    server.enroll(management, "web-1")
    management.post("/groups", json={"name": "web"}).raise_for_status()


def expect_fault(field: Locator, message: str, *, count: int = 1) -> None:
    """Expect a message at a field, as a screen reader announces it; `count` fields are at fault."""
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_have_accessible_description(re.compile(f"{message}$"))
    expect(field.page.locator("[aria-invalid]")).to_have_count(count)


def test_faults_of_a_command_are_corrected_with_the_keyboard_alone(console: Console, management: httpx.Client) -> None:
    page = console.page
    console.open("/console/commands/new?action=scan&agents=web-1")
    folder, depth, globs = page.get_by_label("Folder"), page.get_by_label("depth"), page.get_by_label("globs")
    depth.fill("4")
    globs.fill("UPPER")
    page.locator("#dry-run").press("Enter")
    expect(folder).to_be_focused()
    expect_fault(folder, "Where the scan begins. is required", count=2)
    expect_fault(globs, r'^One per line. \[0\]: "UPPER" does not match .*', count=2)
    console.check("compose-faults")
    page.keyboard.type("/etc")
    page.locator("#dry-run-result").get_by_role("link", name="globs").press("Enter")
    expect(globs).to_be_focused()
    page.keyboard.press("Control+A")
    page.keyboard.type("lower")
    page.locator("#dry-run").press("Enter")
    expect(page.locator("#dry-run-result")).to_contain_text("create 1 order")
    expect(page.locator("[aria-invalid], .fault")).to_have_count(0)
    expect(folder).to_have_accessible_description("Where the scan begins.")
    page.locator("#send").press("Enter")
    page.wait_for_url(re.compile("/console/commands/[0-9a-f-]{36}$"))
    assert len(management.get("/commands").json()["items"]) == 1


def test_each_field_of_a_command_has_its_faults(console: Console) -> None:
    page = console.page
    console.open("/console/commands/new?action=scan&agents=web-1")
    page.get_by_label("Folder").fill("/etc")
    page.get_by_label("depth").fill("4")
    page.get_by_text("Roll it out in steps").click()
    page.locator("#percent").fill("0")
    page.get_by_text("Roll it out in steps").click()
    expect(page.locator("#percent")).not_to_be_visible()
    page.locator("#send").press("Enter")
    expect_fault(page.locator("#percent"), "Expected `float` > 0.0")
    expect(page.locator("#percent")).to_be_focused()
    page.locator("#percent").fill("")
    page.get_by_text("Only agents that match a filter").click()
    for selector, value, message, corrected in (
        ("#agents", "nobody", "there is no agent 'nobody'", "web-1"),
        ("#agents", " ", "name at least one agent", "web-1"),
        ("#timeout", "99999999", "more than .* seconds", "1"),
        ("#start_at", "2090-01-01T00:00", "more than .* seconds from now", ""),
        ("#filter_label", "site", "write key:value, several separated by commas", ""),
        ("[name='args/extra']", "{", "not valid JSON.*", ""),
        ("[name='args/limits/cpu']", "7", "7 is not a multiple of 5", ""),
        ("[name^='args/x: y']", "b", '"b" does not match "\\^a\\+\\$"', ""),
    ):
        field = page.locator(selector)
        field.fill(value)
        page.locator("#send").press("Enter")
        expect_fault(field, message)
        expect(field).to_be_focused()
        expect(page.get_by_role("alert").get_by_role("link")).to_have_attribute("href", re.compile("^#."))
        field.fill(corrected)
    console.check("compose-fault-hostile")
    expect(page).not_to_have_title("hacked")


def test_arguments_as_json_and_another_action_have_their_faults(console: Console) -> None:
    page = console.page
    console.open("/console/commands/new?action=scan&target=group&groups=nothing")
    page.get_by_label("Folder").fill("/etc")
    page.get_by_label("depth").fill("4")
    page.locator("#as-json").click()
    page.locator("#args").fill('{"path": "/etc", "depth": "deep"}')
    page.locator("#dry-run").click()
    expect_fault(page.locator("#args"), 'depth: "deep" is not of type "integer"')
    page.locator("#args").fill("[")
    page.locator("#as-form").click()
    expect_fault(page.locator("#args"), "not valid JSON.*")
    page.locator("#args").fill('{"path": "/etc", "depth": 1}')
    page.locator("#send").click()
    expect_fault(page.locator("#groups"), "there is no group 'nothing'")
    page.locator("#action").select_option(".")
    page.locator("#other_action").fill("cancel")
    page.locator("#other_action").press("Tab")
    page.locator("#send").click()
    expect_fault(page.locator("#other_action"), "submit POST /commands.*")


def test_other_forms_show_their_faults_in_the_same_way(console: Console) -> None:
    page = console.page
    for path, fields, button, faulty, message in (
        ("/console/enrollment", {"#uses": "0"}, "Create token", "#uses", "Expected `int` >= 1"),
        ("/console/groups", {"#name": "a/b"}, "Create group", "#name", "Expected `str` .*"),
        ("/console/groups/web", {"#precedence": "99999999999"}, "Set precedence", "#precedence", "Expected `int` .*"),
        ("/console/groups/web", {"#content": "a: b: c"}, "Store file", "#content", "line 1.*"),
        ("/console/users", {"#name": "a b", "#password": "correct horse battery"}, "Create user", "#name", ".*regex.*"),
    ):
        console.open(path)
        for selector, value in fields.items():
            page.locator(selector).fill(value)
        page.get_by_role("button", name=button).click()
        expect_fault(page.locator(faulty), message)
        expect(page.locator(faulty)).to_be_focused()
    console.check("users-fault")
