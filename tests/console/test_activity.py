"""The pages for events, commands, orders and the audit trail."""

import re
from collections.abc import Callable

import httpx
from playwright.sync_api import expect
from support.batches import command, stateless
from support.browsers import Console
from support.server import Server

HOSTILE = {"message": "</pre><script>document.title=1</script>\x1b[2J"}


def test_events_are_searched_and_shown(console: Console, server: Server, management: httpx.Client) -> None:
    agent_id = server.enroll(management, "talker")
    sent = stateless(agent_id, HOSTILE, {"message": "needle"})
    server.log_in(agent_id).post("/events/stateless", content=sent).raise_for_status()
    page = console.page
    console.open("/console/events?agent=talker")
    rows = page.get_by_role("region", name="Events").get_by_role("row")
    expect(rows).to_have_count(3)
    console.check("events")
    page.get_by_label("Contains").fill("needle")
    page.get_by_role("button", name="Search").click()
    page.wait_for_url(re.compile("contains=needle"))
    expect(rows).to_have_count(2)
    rows.nth(1).get_by_role("link").first.click()
    expect(page.get_by_label("Content")).to_contain_text("needle")
    console.check("event")
    assert console.open("/console/events/00000000-0000-7000-8000-000000000000").status == 404


def test_the_histogram_leads_to_the_events_of_a_bar_and_new_events_are_followed(
    new_console: Callable[..., Console], server: Server, management: httpx.Client
) -> None:
    agent_id = server.enroll(management, "counted")
    client = server.log_in(agent_id)
    client.post("/events/stateless", content=stateless(agent_id, {"n": 1}, {"n": 2})).raise_for_status()
    console = new_console(permissions=["clipboard-read", "clipboard-write"])
    console.enter()
    page = console.page
    rows = page.get_by_role("region", name="Events").get_by_role("row")
    console.open("/console/events?agent=counted&last=15m")
    expect(page.get_by_role("heading", name="2 events in this time")).to_be_visible()
    console.check("events-histogram")
    page.locator(".bars a[aria-label^='2 events']").click(position={"x": 2, "y": 2})
    page.wait_for_url(re.compile("since="))
    expect(page.get_by_role("heading", name="2 events in this time")).to_be_visible()
    expect(rows).to_have_count(3)
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == page.url
    console.open("/console/events?agent=counted&last=15m")
    page.get_by_role("link", name="Follow new events").click()
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    client.post("/events/stateless", content=stateless(agent_id, {"message": "the newest"})).raise_for_status()
    expect(rows.nth(1)).to_contain_text("the newest")
    console.open("/console/events?agent=counted&contains=absent")
    expect(page.get_by_role("link", name="Search at any time")).to_be_visible()
    console.check("events-empty")
    assert console.open("/console/events?since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z").status == 422


def test_a_search_for_a_text_has_no_histogram_of_all_events(console: Console) -> None:
    page = console.page
    console.open("/console/events?contains=needle")
    expect(page.locator("main > .faint")).to_contain_text("A search for a text has no histogram")
    expect(page.locator(".bars")).to_have_count(0)
    console.check("events-text")
    page.get_by_role("link", name="Show the histogram without the text").click()
    expect(page.locator(".bars")).to_have_count(1)
    expect(page.get_by_label("Contains")).to_have_value("")


def test_a_command_is_watched_paused_resumed_and_cancelled(
    console: Console, server: Server, management: httpx.Client
) -> None:
    agent_id = server.enroll(management, "worker")
    answer = management.post("/commands", json=command(agent_id)).json()
    request_id = answer["commands"][0]["request_id"]
    page = console.page
    console.accept_questions()
    console.open("/console/commands")
    page.locator(f"a[href='/console/commands/{request_id}']").click()
    expect(page.get_by_role("heading", name="0 of 1 orders have ended")).to_be_visible()
    console.check("command")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("status")).to_contain_text("paused")
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("status")).to_contain_text("continues")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("heading", name="1 of 1 orders have ended")).to_be_visible()
    console.open("/console/orders?status=cancelled")
    expect(page.locator(f"a[href='/console/commands/{request_id}']")).to_be_visible()
    console.check("orders")


def test_the_audit_trail_names_who_changed_what(console: Console, management: httpx.Client) -> None:
    management.post("/groups", json={"name": "audited"}).raise_for_status()
    console.open("/console/audit?subject=groups&key=audited")
    expect(console.page.get_by_role("row", name="audited")).to_contain_text("admin")
    console.check("audit")


def test_every_link_of_every_page_leads_to_a_page(console: Console) -> None:
    seen, waiting = set(), ["/console"]
    while waiting and len(seen) < 100:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        assert console.open(path).status == 200, path
        links = console.page.locator("a[href^='/console']:not([download])").evaluate_all(
            "all => all.map(a => a.getAttribute('href'))"
        )
        waiting += [link for link in links if link not in seen]
    assert {"/console/events", "/console/commands", "/console/audit"} <= seen
