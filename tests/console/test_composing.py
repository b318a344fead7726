"""The page that composes a command."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

import httpx
import pytest
from playwright.sync_api import expect
from support.browsers import Console
from support.server import Server

HOSTILE = "<img src=x onerror=document.title='hacked'>\x1b[2J"
SCHEMA = {
    "type": "object",
    "description": f"Scans a part of the host. {HOSTILE}",
    "required": ["path", "depth"],
    "additionalProperties": False,
    "properties": {
        "path": {"type": "string", "title": "Folder", "description": "Where the scan begins.", "minLength": 1},
        "depth": {"type": "integer", "minimum": 1, "maximum": 9, "default": 3, "description": HOSTILE},
        "ratio": {"type": "number"},
        "deep": {"type": "boolean", "default": False},
        "mode": {"enum": ["fast", HOSTILE, 7]},
        "globs": {"type": "array", "items": {"$ref": "#/$defs/glob"}, "description": "Files to leave out."},
        "limits": {"type": "object", "properties": {"cpu": {"type": "integer"}, "note/~": {"type": "string"}}},
        "extra": {"description": "Anything."},
    },
    "$defs": {"glob": {"type": "string", "pattern": "^[a-z*.]+$"}},
}


@pytest.fixture(scope="module")
def agents(server: Server, management: httpx.Client) -> list[UUID]:
    """Three agents, two of them in a group, and a registered action."""
    management.post("/groups", json={"name": "web"}).raise_for_status()
    management.put("/actions/scan", json={"schema": SCHEMA}).raise_for_status()
    return [
        server.enroll(management, name, groups=groups)
        for name, groups in (("web-1", ("web",)), ("web-2", ("web",)), (HOSTILE.replace("\x1b", ""), ()))
    ]


def submitted(console: Console, management: httpx.Client) -> dict[str, object]:
    """Return the command whose page is shown."""
    console.page.wait_for_url(re.compile("/console/commands/[0-9a-f-]{36}$"))
    command: dict[str, object] = management.get(f"/commands/{console.page.url.rpartition('/')[2]}").json()["command"]
    return command


def test_a_command_is_composed_from_the_form_of_its_action(
    console: Console, management: httpx.Client, agents: list[UUID]
) -> None:
    page = console.page
    console.open("/console/commands")
    page.get_by_role("link", name="Compose a command").first.click()
    page.get_by_label("Name", exact=True).first.select_option("scan")
    expect(page.get_by_label("depth")).to_have_value("3")
    page.get_by_label("Folder").fill("/etc")
    page.get_by_label("depth").fill("4")
    page.get_by_label("ratio").fill("0.5")
    page.get_by_label("deep").select_option("yes")
    page.get_by_label("mode").select_option("7")
    page.get_by_label("globs").fill("*.tmp\n\n*.log\n")
    page.get_by_label("cpu").fill("2")
    page.get_by_label("note/~").fill("'\"")
    page.get_by_label("extra").fill('{"a": [1]}')
    page.get_by_label("Groups", exact=True).check()
    page.get_by_label("Names of groups").fill("web")
    expect(page.locator("#recipients .figure")).to_have_text(re.compile(r"^2\s+agents$"))
    expect(page.locator("#recipients")).to_contain_text("web-2")
    page.get_by_role("button", name="Dry run").click()
    expect(page.locator("#dry-run-result")).to_contain_text("create 2 orders")
    assert management.get("/commands").json()["items"] == []
    console.check("compose")
    page.get_by_role("button", name="Send command").click()
    command = submitted(console, management)
    args = {
        "path": "/etc",
        "depth": 4,
        "ratio": 0.5,
        "deep": True,
        "mode": 7,
        "globs": ["*.tmp", "*.log"],
        "limits": {"cpu": 2, "note/~": "'\""},
        "extra": {"a": [1]},
    }
    assert command["action"] == {"name": "scan", "args": args, "version": ""}
    assert command["target"] == {"type": "group", "id": "web"}
    assert command["timeout"] == 3600
    assert agents

    page.get_by_role("link", name="Compose another like this").click()
    expect(page.get_by_label("Folder")).to_have_value("/etc")
    expect(page.get_by_label("note/~")).to_have_value("'\"")
    expect(page.get_by_label("globs")).to_have_value("*.tmp\n*.log")
    expect(page.get_by_label("Names of groups")).to_have_value("web")


def fill_scan(console: Console, agents: str) -> None:
    console.page.locator("#action").select_option("scan")
    console.page.get_by_label("Folder").fill("/etc")
    console.page.get_by_label("Names or ids of agents").fill(agents)


def test_a_double_click_and_a_repeated_form_submit_one_command(
    console: Console, server: Server, management: httpx.Client, agents: list[UUID]
) -> None:
    console.open("/console/commands/new?action=scan&agents=web-1")
    console.page.get_by_label("Folder").fill("/twice")
    forms: list[str] = []
    console.page.on("request", lambda request: request.method == "POST" and forms.append(request.post_data or ""))
    console.page.locator("#send").dblclick()
    command = submitted(console, management)
    headers = {"X-CSRF-Token": console.csrf(), "Sec-Fetch-Site": "same-origin", "HX-Request": "true"}
    again = console.page.request.post("/console/commands/new", headers=headers, data=forms[-1].encode())
    assert again.headers["hx-redirect"].endswith(str(command["request_id"]))
    same = [item for item in management.get("/commands").json()["items"] if item["action"] == command["action"]]
    assert len(same) == 1
    changed = console.page.request.post(
        "/console/commands/new", headers=headers, data=forms[-1].replace("%2Ftwice", "%2Fother").encode()
    )
    assert not changed.headers["hx-redirect"].endswith(str(command["request_id"]))
    assert agents
    assert server


def test_the_server_names_the_field_at_fault(console: Console, management: httpx.Client, agents: list[UUID]) -> None:
    page = console.page
    console.open("/console/commands/new")
    fill_scan(console, "web-1\nnobody\nweb-1")
    expect(page.locator("#recipients")).to_contain_text("Not found: nobody")
    page.get_by_role("button", name="Send command").click()
    expect(page.get_by_role("alert")).to_contain_text("there is no agent 'nobody'")
    page.get_by_label("Names or ids of agents").fill("web-1")
    page.get_by_label("globs").fill("UPPER")
    page.get_by_role("button", name="Dry run").click()
    expect(page.locator("#dry-run-result")).to_contain_text('globs[0]: "UPPER" does not match')
    console.check("compose-refused")
    page.get_by_label("globs").fill("")
    page.get_by_label("extra").fill("{not JSON")
    page.get_by_role("button", name="Send command").click()
    expect(page.get_by_role("alert")).to_contain_text("extra: not valid JSON")
    page.get_by_label("extra").fill("")
    page.get_by_label("Expires after").fill("9999")
    page.locator("[name=unit]").select_option("days")
    page.get_by_role("button", name="Send command").click()
    expect(page.get_by_role("alert")).to_contain_text("timeout: more than")
    assert not [item for item in management.get("/commands").json()["items"] if "nobody" in str(item)]
    assert agents


def test_settings_of_time_and_rollout_are_those_of_the_command(
    console: Console, management: httpx.Client, agents: list[UUID]
) -> None:
    page = console.page
    console.open("/console/commands/new?target=all")
    page.locator("#action").select_option("restart")
    expect(page.get_by_text("This action takes no arguments.")).to_be_visible()
    page.get_by_text("Only agents that match a filter").click()
    page.locator("#filter_name").fill("web-*")
    expect(page.locator("#recipients .figure")).to_have_text(re.compile(r"^2\s+agents$"))
    page.locator("#timeout").fill("2.5")
    page.locator("[name=unit]").select_option("minutes")
    page.locator("#priority").fill("-7")
    page.get_by_text("Roll it out in steps").click()
    page.locator("#percent").fill("50")
    page.locator("#failure_percent").fill("10")
    page.locator("#failures_after").fill("3")
    console.check("compose-settings")
    page.get_by_role("button", name="Send command").click()
    command = submitted(console, management)
    assert command["timeout"] == 150
    assert command["priority"] == -7
    assert command["rollout"] == {"percent": 50, "failure_ratio": 0.1, "failures_after": 3}
    assert command["target"] == {"type": "all", "filter": {"name": "web-*"}}
    page.get_by_role("link", name="Compose another like this").click()
    expect(page.locator("#timeout")).to_have_value("150")
    expect(page.locator("#failure_percent")).to_have_value("10")
    expect(page.locator("#filter_name")).to_have_value("web-*")
    assert agents


def test_times_are_in_the_zone_of_the_browser(console: Console, management: httpx.Client, agents: list[UUID]) -> None:
    page = console.page
    until = datetime.now(UTC).replace(microsecond=0, second=0) + timedelta(days=30)
    console.open("/console/commands/new?action=restart&agents=web-1")
    page.get_by_text("Also send it to agents that match later").click()
    page.get_by_label("Continuous").check()
    page.get_by_label("Until").fill(until.astimezone(ZoneInfo("Europe/Berlin")).strftime("%Y-%m-%dT%H:%M"))
    page.get_by_role("button", name="Send command").click()
    command = submitted(console, management)
    assert datetime.fromisoformat(str(command["until"])) == until
    management.post(f"/commands/{command['request_id']}/cancel").raise_for_status()
    assert agents


def test_args_without_a_form_are_written_as_json(
    console: Console, management: httpx.Client, agents: list[UUID]
) -> None:
    page = console.page
    console.open("/console/commands/new?agents=web-1")
    page.locator("#action").select_option("another action…")
    page.get_by_label("Name of the other action").fill("my-script")
    page.get_by_label("Name of the other action").press("Tab")
    expect(page.get_by_label("Arguments as JSON")).to_have_value("{}")
    page.get_by_label("Arguments as JSON").fill('["a", {"b": 1}]')
    page.get_by_label("Version of the action").fill("2.0")
    page.get_by_role("button", name="Send command").click()
    command = submitted(console, management)
    assert command["action"] == {"name": "my-script", "args": ["a", {"b": 1}], "version": "2.0"}

    console.open("/console/commands/new?agents=web-1")
    fill_scan(console, "web-1")
    page.get_by_role("button", name="Edit as JSON").click()
    expect(page.get_by_label("Arguments as JSON")).to_have_value(re.compile('"path": "/etc"'))
    page.get_by_label("Arguments as JSON").fill('{"path": "/usr", "depth": 2, "limits": {"more": 1}}')
    page.get_by_role("button", name="Edit in a form").click()
    expect(page.get_by_text("A form cannot express these arguments.")).to_be_visible()
    page.get_by_label("Arguments as JSON").fill('{"path": "/usr", "depth": 2}')
    page.get_by_role("button", name="Edit in a form").click()
    expect(page.get_by_label("Folder")).to_have_value("/usr")
    assert agents


def test_versions_of_an_action_have_their_own_forms(
    console: Console, management: httpx.Client, agents: list[UUID]
) -> None:
    for version, name in (("1", "old"), ("2", "new")):
        schema = {"type": "object", "properties": {name: {"type": "string"}}}
        management.put("/actions/versioned", json={"schema": schema, "version": version}).raise_for_status()
    page = console.page
    console.open("/console/commands/new?agents=web-1")
    page.locator("#action").select_option("versioned")
    expect(page.get_by_label("new", exact=True)).to_be_visible()
    page.get_by_label("Version of the action").select_option("1")
    page.get_by_label("old", exact=True).fill("x")
    page.get_by_role("button", name="Send command").click()
    assert submitted(console, management)["action"] == {"name": "versioned", "args": {"old": "x"}, "version": "1"}
    assert agents


def press_until(console: Console, key: str, condition: str) -> None:
    """Press a key until a condition of the page holds. A list forgets letters that are typed slowly."""
    for _ in range(30):
        if console.page.evaluate(condition):
            return
        console.page.keyboard.press(key)
    pytest.fail(f"{key} never led to {condition}")


def test_a_command_is_composed_with_the_keyboard_alone(
    console: Console, management: httpx.Client, agents: list[UUID]
) -> None:
    page = console.page
    console.open("/console/commands/new")
    page.locator("#action").focus()
    press_until(console, "ArrowDown", "document.activeElement.value === 'restart'")
    console.settle()
    expect(page.get_by_text("This action takes no arguments.")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.locator("#target-agent")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#agents")).to_be_focused()
    page.keyboard.type("web-2")
    expect(page.locator("#recipients")).to_contain_text("web-2")  # the part before the button stays from now on
    press_until(console, "Tab", "document.activeElement.id === 'send'")
    page.keyboard.press("Enter")
    command = submitted(console, management)
    assert command["target"] == {"type": "agent", "id": str(agents[1])}


def test_only_those_who_may_submit_get_the_page(
    new_console: Callable[..., Console], server: Server, management: httpx.Client
) -> None:
    server.user(management, "onlooker", "reader")
    console = new_console()
    console.enter("onlooker")
    assert console.open("/console/commands/new").status == 403
    console.open("/console/commands")
    expect(console.page.get_by_role("link", name="Compose a command")).to_have_count(0)


def test_a_command_to_a_selection_reaches_the_selected_agents_only(
    console: Console, server: Server, management: httpx.Client, agents: list[UUID]
) -> None:
    page = console.page
    console.open("/console/agents?name=web-*")
    page.get_by_role("button", name="Select all that match").click()
    page.wait_for_url("**/console/selections/*")
    server.enroll(management, "web-later")
    page.get_by_role("link", name="Send a command").click()
    expect(page.get_by_label("A selection")).to_be_checked()
    expect(page.locator("#recipients .figure")).to_have_text(re.compile(r"^2\s+agents$"))
    page.locator("#action").select_option("restart")
    console.check("compose-selection")
    page.get_by_role("button", name="Send command").click()
    command = submitted(console, management)
    orders = management.get("/orders", params={"request_id": str(command["request_id"])}).json()["items"]
    assert {order["agent_id"] for order in orders} == {str(agents[0]), str(agents[1])}


def test_agents_and_groups_lead_to_the_form(console: Console, agents: list[UUID]) -> None:
    page = console.page
    console.open(f"/console/agents/{agents[2]}")  # its name is hostile
    page.get_by_role("link", name="Send a command").click()
    expect(page.locator("#recipients .sample")).to_contain_text("<img src=x")
    expect(page.get_by_label("Names or ids of agents")).to_have_value(str(agents[2]))
    console.open("/console/groups/web")
    page.get_by_role("link", name="Send a command").click()
    expect(page.locator("#recipients .figure")).to_have_text(re.compile(r"^2\s+agents$"))
    expect(page).not_to_have_title("hacked")
