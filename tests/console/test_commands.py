"""The page of a command: its progress, its failures by message, repetition and export; the pages of orders."""

import csv
import io
import json
import re
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from playwright.sync_api import expect
from support.batches import command
from support.browsers import Console
from support.server import Server

HOSTILE = "<img src=x onerror=document.title='hacked'>\x1b[2J" + "y" * 500


def report(server: Server, agent_id: UUID, code: int, message: str) -> None:
    """Have an agent take its orders, and report the same result for each."""
    client = server.log_in(agent_id)
    orders = client.get("/commands", params={"wait": 60}).raise_for_status().json()["commands"]
    results = [{"order_id": order["order_id"], "result": {"code": code, "message": message}} for order in orders]
    assert results
    client.post("/commands/results", json={"results": results}).raise_for_status()


@pytest.fixture(scope="module")
def agents(server: Server, management: httpx.Client) -> list[UUID]:
    return [server.enroll(management, f"worker-{number}") for number in range(4)]


@pytest.fixture(scope="module")
def request_id(server: Server, management: httpx.Client, agents: list[UUID]) -> str:
    """A command that has failed for two agents, was a success for one, and is open for another."""
    body = command("", "agent", "restart") | {"target": {"type": "agent", "id": [str(agent_id) for agent_id in agents]}}
    submitted: str = management.post("/commands", json=body).raise_for_status().json()["commands"][0]["request_id"]
    report(server, agents[0], 1, HOSTILE)
    report(server, agents[1], 1, HOSTILE)
    report(server, agents[2], 0, "done")
    return submitted


def test_failures_are_grouped_by_message_and_lead_to_their_orders(console: Console, request_id: str) -> None:
    page = console.page
    console.open(f"/console/commands/{request_id}")
    expect(page.get_by_role("heading", name="3 of 4 orders have ended")).to_be_visible()
    expect(page.get_by_text("3 in the last minute")).to_be_visible()
    failures = page.get_by_role("region", name="Failures by message").locator("tbody tr")
    expect(failures).to_have_count(1)
    expect(failures).to_contain_text("<img src=x")
    expect(failures.locator(".number")).to_have_text("2")
    expect(failures.get_by_role("link", name="worker-1")).to_be_visible()
    expect(page.locator(".facts")).to_contain_text("agents worker-0 worker-1 worker-2 worker-3")
    console.check("command-failures")
    console.open("/console/commands")
    expect(page.get_by_role("row", name="restart").first).to_contain_text(
        "agents worker-0 worker-1 worker-2 and 1 more"
    )
    console.check("commands")
    page.go_back()
    failures.get_by_role("link", name="failed").click()
    expect(page.get_by_role("heading", name="Orders: failed, code 1")).to_be_visible()
    expect(page.get_by_role("region", name="Orders").locator("tbody tr")).to_have_count(2)
    page.get_by_role("link", name="success").click()
    expect(page.get_by_role("region", name="Orders").locator("tbody tr")).to_have_count(1)


def test_failed_orders_are_repeated_once_for_the_agents_that_have_failed(
    console: Console, server: Server, management: httpx.Client, request_id: str, agents: list[UUID]
) -> None:
    page = console.page
    console.accept_questions()
    console.open(f"/console/commands/{request_id}")
    forms: list[str] = []
    page.on("request", lambda request: request.method == "POST" and forms.append(request.post_data or ""))
    page.get_by_role("button", name="Retry failed").click()
    page.wait_for_url(lambda url: bool(re.search("/console/commands/[0-9a-f-]{36}$", url)) and request_id not in url)
    expect(page.get_by_role("heading", name="0 of 2 orders have ended")).to_be_visible()
    expect(page.get_by_role("link", name=request_id)).to_be_visible()
    repeated = page.url.rpartition("/")[2]
    assert management.get(f"/commands/{repeated}").json()["command"]["retry_of"] == request_id
    orders = management.get("/orders", params={"request_id": repeated}).json()["items"]
    assert {order["agent_id"] for order in orders} == {str(agent_id) for agent_id in agents[:2]}
    headers = {"X-CSRF-Token": console.csrf(), "Sec-Fetch-Site": "same-origin", "HX-Request": "true"}
    again = page.request.post(f"/console/commands/{request_id}/retry", headers=headers, data=forms[-1].encode())
    assert again.headers["hx-redirect"].endswith(repeated)
    report(server, agents[0], 0, "done")
    expect(page.get_by_role("heading", name="1 of 2 orders have ended")).to_be_visible()
    console.check("command-repeated")


def test_orders_are_exported_as_csv_and_as_lines_of_json(console: Console, request_id: str, tmp_path: Path) -> None:
    console.open(f"/console/commands/{request_id}")
    contents = {}
    for name, suffix in (("CSV", "csv"), ("JSON lines", "ndjson")):
        with console.page.expect_download() as download:
            console.page.get_by_role("link", name=f"Export as {name}").click()
        assert download.value.suggested_filename == f"{request_id}.{suffix}"
        download.value.save_as(tmp_path / suffix)
        contents[suffix] = (tmp_path / suffix).read_text()
    rows = list(csv.DictReader(io.StringIO(contents["csv"])))
    assert sorted(row["outcome"] for row in rows) == ["", "failed", "failed", "success"]
    assert {json.loads(line)["order_id"] for line in contents["ndjson"].splitlines()} == {
        row["order_id"] for row in rows
    }


def test_orders_are_filtered_and_one_is_shown_and_cancelled(
    console: Console, request_id: str, agents: list[UUID]
) -> None:
    page = console.page
    console.accept_questions()
    console.open("/console/orders")
    page.get_by_label("Outcome").select_option("failed")
    expect(page).to_have_url(re.compile(r"\?outcome=failed$"))
    rows = page.get_by_role("region", name="Orders").locator("tbody tr")
    expect(rows).to_have_count(2)
    page.get_by_label("Agent").fill("worker-1")
    page.get_by_role("button", name="Search").click()
    expect(rows).to_have_count(1)
    console.check("orders-filtered")
    rows.get_by_role("link", name="failed").click()
    expect(page.get_by_role("heading", name="Order for worker-1")).to_be_visible()
    expect(page.locator("#live")).to_contain_text("<img src=x")
    console.check("order")
    console.open(f"/console/commands/{request_id}?status=pending")
    page.get_by_role("region", name="Orders").get_by_role("link", name="pending", exact=True).click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".badge.cancelled")).to_be_visible()
    assert agents


def test_the_audit_trail_of_a_command_is_linked(console: Console, request_id: str) -> None:
    console.open(f"/console/commands/{request_id}")
    console.page.get_by_role("link", name="who changed it").click()
    expect(console.page.get_by_role("row", name=re.compile("insert.*commands", re.DOTALL))).to_contain_text("admin")


@pytest.mark.parametrize("query", ["outcome=x", "code=x", "format=xml"])
def test_a_faulty_filter_is_refused(console: Console, request_id: str, query: str) -> None:
    path = f"{request_id}/results" if "format" in query else request_id
    assert console.page.request.get(f"/console/commands/{path}?{query}").status == 400
