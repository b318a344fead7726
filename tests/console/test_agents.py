"""The overview, the list of agents and the page of an agent."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Literal
from uuid import UUID

import httpx
import pytest
from playwright.sync_api import expect
from support.batches import state, stateful, stateless
from support.browsers import Console
from support.server import Server
from support.waiting import wait_until

SCRIPT = "<img src=x onerror=document.title='hacked'>"
HOSTILE = {"message": SCRIPT + "\x1b[2J\u202e" + "x" * 2**20}


@pytest.fixture(scope="module")
def agent(server: Server, management: httpx.Client) -> UUID:
    """An agent with a group, labels, a state and events, all of them hostile."""
    management.post("/groups", json={"name": "web"}).raise_for_status()
    body = {"name": SCRIPT, "key": "0123456789abcdefghijklmnopqrstuv", "groups": ["web"], "labels": {"<b>": "<i>"}}
    host = {"os": {"name": SCRIPT, "version": "12"}, "hostname": SCRIPT}
    answer = management.post("/agents", json={**body, "host": host, "version": "5.1"})
    answer.raise_for_status()
    agent_id = UUID(answer.json()["id"])
    client = server.log_in(agent_id)
    client.post("/events/stateless", content=stateless(agent_id, {"n": 1}, HOSTILE)).raise_for_status()
    states = stateful(
        agent_id, state(SCRIPT, data={"message": HOSTILE["message"][:-100]}), state("second", data={"a": 1})
    )
    client.post("/events/stateful", content=states).raise_for_status()
    return agent_id


def test_the_overview_shows_the_fleet(console: Console, agent: UUID) -> None:
    assert agent
    console.open("/console")
    page = console.page
    expect(page.get_by_role("link", name=re.compile(r"1\s*agents"))).to_be_visible()
    expect(page.get_by_role("heading", name="Needs attention")).to_be_visible()
    expect(page.get_by_role("link", name=re.compile("^node-"))).to_be_visible()
    expect(page.get_by_text("events, last minute")).to_be_visible()
    console.check("overview")
    page.get_by_role("link", name="web").click()
    expect(page).to_have_url(re.compile(r"/console/agents\?group=web$"))


def test_agents_are_searched_and_the_url_keeps_the_search(
    console: Console, new_console: Callable[..., Console], agent: UUID, management: httpx.Client, server: Server
) -> None:
    for number in range(55):
        server.enroll(management, f"host-{number:02}")
    console.open("/console/agents")
    page = console.page
    expect(page.locator("tbody tr")).to_have_count(50)
    console.check("agents")
    page.get_by_role("link", name="Next page").click()
    expect(page.locator("tbody tr")).to_have_count(6)
    page.get_by_label("Name", exact=True).fill("HOST-1")
    page.get_by_role("button", name="Search").click()
    expect(page).to_have_url(re.compile(r"/console/agents\?name=HOST-1$"))
    expect(page.locator("tbody tr")).to_have_count(10)
    page.get_by_label("Status").select_option("never connected")
    expect(page).to_have_url(re.compile(r"\?name=HOST-1&status=never_connected$"))
    other = new_console()
    other.open(page.url)
    other.sign_in()
    expect(other.page.locator("tbody tr")).to_have_count(10)
    other.page.get_by_role("link", name="host-10").click()
    expect(other.page.get_by_role("heading", name="host-10")).to_be_visible()
    page.get_by_label("Name", exact=True).fill("absent")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_text("No agent matches")).to_be_visible()
    assert agent


@pytest.mark.parametrize("query", ["status=gone", "label=x", "naem=x", "after=1", "name=%00"])
def test_a_faulty_filter_is_a_page_that_names_it(console: Console, query: str) -> None:
    answer = console.open(f"/console/agents?{query}")
    assert answer.status in {400, 422}
    field = query.partition("=")[0]
    expect(console.page.get_by_role("heading", level=1)).to_be_visible()
    expect(console.page.locator(".lead")).to_contain_text(re.compile(field, re.IGNORECASE))


def test_a_hostile_agent_is_shown_harmlessly(console: Console, agent: UUID) -> None:
    page = console.page
    for path in ("", "/states", "/orders", "/audit"):
        console.open(f"/console/agents/{agent}{path}")
        expect(page.get_by_role("heading", level=1)).to_have_text(SCRIPT)
        assert page.title() != "hacked"
        assert len(page.content()) < 200_000
        name = f"agent{path.replace('/', '-')}"
        console.check(name)
    console.open(f"/console/agents/{agent}")
    expect(page.get_by_role("region", name="Events", exact=True)).to_contain_text("onerror")
    console.open(f"/console/agents/{agent}/states?module=fim")
    expect(page.get_by_role("region", name="States")).to_contain_text("onerror")


def test_an_agent_is_blocked_and_unblocked(console: Console, server: Server, management: httpx.Client) -> None:
    agent_id = server.enroll(management, "to-block")
    agent = server.log_in(agent_id)
    page = console.page
    console.accept_questions()
    console.open(f"/console/agents/{agent_id}")
    page.get_by_role("button", name="Block").click()
    expect(page.get_by_role("status")).to_contain_text("to-block is blocked")
    expect(page.get_by_role("button", name="Unblock")).to_be_visible()
    wait_until(lambda: agent.get("/commands?wait=0").status_code == 401)
    assert management.get(f"/agents/{agent_id}").json()["is_blocked"]
    page.get_by_role("button", name="Unblock").click()
    expect(page.get_by_role("status")).to_contain_text("may log in again")
    entries = management.get("/audit", params={"subject": "agents", "key": str(agent_id), "order": "newest"}).json()
    assert entries["items"][0]["actor"] == "admin"


def test_states_are_searched_by_id_and_content(console: Console, agent: UUID) -> None:
    page = console.page
    console.open(f"/console/agents/{agent}/states")
    page.get_by_label("Id or content contains").fill('"a": 1')
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("region", name="States").get_by_role("row")).to_have_count(2)
    expect(page.get_by_role("row", name="second")).to_be_visible()
    console.check("agent-states-search")
    page.get_by_label("Id or content contains").fill("absent")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("heading", name="No state matches")).to_be_visible()


def hash_of(group: str, name: str, content: bytes) -> str:
    """Return the hash that an agent with this one file reports."""
    return sha256(f"{group}/{name} {sha256(content).hexdigest()}\n".encode()).hexdigest()


def test_the_drift_of_an_agent_is_shown_with_a_difference(
    console: Console, server: Server, management: httpx.Client
) -> None:
    management.post("/groups", json={"name": "drifting"}).raise_for_status()
    agent_id = server.enroll(management, "behind", groups=("drifting",))
    client, page = server.log_in(agent_id), console.page
    url = "/groups/drifting/files/drifting.yml"
    management.put(url, content=b"a: 1\n").raise_for_status()
    console.open(f"/console/agents/{agent_id}")
    row = page.get_by_role("row", name="drifting/drifting.yml")
    expect(row).to_contain_text("not fetched yet")
    client.put("/configuration", json={"sha256": hash_of("drifting", "drifting.yml", b"a: 1\n")}).raise_for_status()
    expect(row.get_by_text("none", exact=True)).to_be_visible()
    management.put(url, content=b"a: 2\n").raise_for_status()
    expect(row.get_by_role("cell", name="version 2")).to_be_visible()
    expect(row.get_by_role("cell", name="version 1")).to_be_visible()
    console.check("agent-drift")
    row.get_by_role("link", name="Show").click()
    expect(page.locator(".diff .removed")).to_contain_text("a: 1")
    expect(page.locator(".diff .added")).to_contain_text("a: 2")
    client.put("/configuration", json={"sha256": "0" * 64}).raise_for_status()
    console.open(f"/console/agents/{agent_id}")
    expect(page.get_by_text("match no stored versions")).to_be_visible()


def test_ids_are_copied(new_console: Callable[..., Console], agent: UUID) -> None:
    console = new_console(permissions=["clipboard-read", "clipboard-write"])
    console.enter()
    console.open(f"/console/agents/{agent}")
    console.page.get_by_role("button", name=f"Copy {agent}").click()
    wait_until(lambda: console.page.evaluate("navigator.clipboard.readText()") == str(agent))


def test_an_agent_gets_labels_and_groups_and_is_deleted(
    console: Console, server: Server, management: httpx.Client
) -> None:
    agent_id = server.enroll(management, "to-label")
    management.post("/groups", json={"name": "db"})
    page = console.page
    console.accept_questions()
    console.open(f"/console/agents/{agent_id}")
    page.get_by_label("Labels").fill("site:berlin\ntier:1")
    page.get_by_role("button", name="Store labels").click()
    expect(page.get_by_role("status")).to_contain_text("stored")
    page.get_by_label("Add to a group").fill("db")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_role("button", name="Leave db")).to_be_visible()
    shown = management.get(f"/agents/{agent_id}").json()
    assert (shown["groups"], shown["labels"]) == (["db"], {"site": "berlin", "tier": "1"})
    page.get_by_role("button", name="Leave db").click()
    expect(page.get_by_text("It is in no group.")).to_be_visible()
    page.get_by_label("Add to a group").fill("absent")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("There is no group 'absent'")
    page.get_by_role("button", name="Delete").click()
    expect(page).to_have_url(re.compile("/console/agents$"))
    assert management.get(f"/agents/{agent_id}").status_code == 404


def test_a_reader_sees_no_buttons_and_is_refused(
    new_console: Callable[..., Console], server: Server, management: httpx.Client, agent: UUID
) -> None:
    server.user(management, "reader", "reader")
    console = new_console()
    console.open(f"/console/agents/{agent}")
    console.sign_in("reader")
    page = console.page
    expect(page.get_by_role("heading", level=1)).to_have_text(SCRIPT)
    buttons = page.locator("main button:visible:not([data-copy])")
    expect(buttons).to_have_count(0)
    expect(page.get_by_role("link", name="Audit")).to_have_count(0)
    status = page.evaluate(
        """async (path) => {
            const headers = JSON.parse(document.body.getAttribute("hx-headers"));
            return (await fetch(path, {method: "POST", headers})).status;
        }""",
        f"/console/agents/{agent}/block",
    )
    assert status == 403
    assert not management.get(f"/agents/{agent}").json()["is_blocked"]


def test_a_live_part_loads_again_and_keeps_what_is_open(console: Console, agent: UUID, server: Server) -> None:
    console.open(f"/console/agents/{agent}")
    page = console.page
    page.get_by_text("All that the agent describes").click()
    client = server.log_in(agent)
    client.post("/events/stateless", content=stateless(agent, {"message": "newest of all"})).raise_for_status()
    expect(page.get_by_role("region", name="Events", exact=True)).to_contain_text("newest of all")
    expect(page.locator("#host-details")).to_have_attribute("open", "")


def test_a_live_part_stays_while_a_button_in_it_is_pressed(
    console: Console, server: Server, management: httpx.Client
) -> None:
    agent_id = server.enroll(management, "to-press")
    console.accept_questions()
    console.open(f"/console/agents/{agent_id}")
    page = console.page
    page.get_by_role("button", name="Block").hover()
    page.mouse.down()
    load_part_again(console, agent_id)
    page.mouse.up()
    expect(page.get_by_role("status")).to_contain_text("to-press is blocked")
    expect(page.get_by_role("button", name="Unblock")).to_be_visible()


@pytest.mark.parametrize(("role", "name"), [("button", "Block"), ("link", "Search its events")])
def test_a_live_part_that_loads_again_keeps_the_focus(
    console: Console, server: Server, management: httpx.Client, role: Literal["button", "link"], name: str
) -> None:
    agent_id = server.enroll(management, f"focused-{role}")
    console.open(f"/console/agents/{agent_id}")
    focused = console.page.locator("#live").get_by_role(role, name=name).first
    focused.focus()
    replaced = focused.element_handle()
    load_part_again(console, agent_id)
    console.page.wait_for_function("(element) => !element.isConnected", arg=replaced)
    expect(focused).to_be_focused()


def test_a_live_part_that_stayed_is_loaded_once_it_is_released(
    console: Console, server: Server, management: httpx.Client
) -> None:
    agent_id = server.enroll(management, "to-hold")
    page = console.page
    page.clock.install()
    console.open(f"/console/agents/{agent_id}")
    page.clock.pause_at(datetime.now(UTC) + timedelta(minutes=1))
    console.settle()
    page.get_by_role("heading", name="Identity").hover()
    page.mouse.down()
    management.patch(f"/agents/{agent_id}", json={"is_blocked": True}).raise_for_status()
    load_part_again(console, agent_id)
    expect(page.locator(".badge.blocked")).to_have_count(0)
    page.mouse.up()
    page.clock.run_for(500)
    expect(page.locator(".badge.blocked")).to_be_visible()


def load_part_again(console: Console, agent_id: UUID) -> None:
    with console.page.expect_response(lambda answer: answer.url.endswith(str(agent_id))) as part:
        console.page.evaluate("htmx.trigger(document.body, 'changed')")
    part.value.finished()
    console.settle()


def test_a_button_of_a_part_that_was_loaded_again_works_at_once(
    console: Console, server: Server, management: httpx.Client
) -> None:
    console.open(f"/console/agents/{server.enroll(management, 'to-fetch')}")
    console.page.evaluate("""
        document.getElementById("push-files").style.width = "9em";  // an inline style, which htmx must not copy
        new MutationObserver((_, observer) => {
            observer.disconnect();
            document.getElementById("push-files").click();
        }).observe(document.getElementById("live").parentNode, {childList: true});
        htmx.trigger(document.body, "changed");
    """)
    expect(console.page.get_by_role("status")).to_be_visible()


def test_times_are_in_the_zone_of_the_browser(console: Console, agent: UUID) -> None:
    console.open(f"/console/agents/{agent}")
    shown = console.page.locator("time:not([data-relative])").first
    expect(shown).to_have_attribute("data-local", "")
    expect(shown).to_have_attribute("title", re.compile("UTC$"))
    expect(shown).not_to_contain_text("UTC")
