"""The pages for groups and their files."""

import re
from collections.abc import Callable

import httpx
from playwright.sync_api import expect
from support.browsers import Console
from support.server import Server

from comms_api.console.pages.files import EDITED_BYTES_MAXIMUM
from comms_api.console.pages.groups import COUNTED_AT_ONCE

HOSTILE = "note: '</textarea><script>document.title=1</script>'\n"


INSERT_MEMBERS = """
    WITH members AS (
        INSERT INTO agents (id, name, key_hash)
        SELECT gen_random_uuid(), 'member-' || n, '' FROM generate_series(1, $2) AS n RETURNING id
    ) INSERT INTO group_members (group_name, agent_id) SELECT $1, id FROM members"""


def store(console: Console, content: str) -> None:
    console.page.get_by_label("Content").fill(content)
    console.page.get_by_role("button", name="Store as the next version").click()


def test_a_group_and_its_file_from_the_first_version_to_a_rollback(console: Console, management: httpx.Client) -> None:
    page = console.page
    console.accept_questions()
    console.open("/console/groups")
    page.get_by_label("Name").fill("web")
    page.get_by_role("button", name="Create group").click()
    page.wait_for_url("**/console/groups/web")
    expect(page.get_by_label("Name")).to_have_value("web.yml")
    page.get_by_label("Content").fill(HOSTILE)
    page.get_by_role("button", name="Store file").click()
    page.wait_for_url("**/console/groups/web/files/web.yml")
    expect(page.get_by_label("Content")).to_have_value(HOSTILE)

    store(console, "a: [1")
    expect(page.get_by_role("alert")).to_contain_text("line 1")
    store(console, "a: 1\nb: 2\n")
    expect(page.get_by_role("status")).to_contain_text("Version 2 is stored")
    assert management.get("/groups/web/files/web.yml").text == "a: 1\nb: 2\n"
    expect(page.get_by_role("row", name="2 current")).to_be_visible()
    console.check("file")

    page.get_by_role("link", name="Compare version 1").click()
    expect(page.locator(".diff .removed")).to_contain_text("</textarea><script>")
    expect(page.locator(".diff .added")).to_have_count(2)
    console.check("file-diff")

    console.open("/console/groups/web/files/web.yml")
    page.get_by_role("button", name="Roll back to version 1").click()
    expect(page.get_by_role("status")).to_contain_text("Version 3 has the content of version 1")
    assert management.get("/groups/web/files/web.yml").text == HOSTILE
    page.get_by_role("button", name="Delete file").click()
    page.wait_for_url("**/console/groups/web")
    expect(page.get_by_text("No files")).to_be_visible()
    page.get_by_role("button", name="Delete group").click()
    page.wait_for_url("**/console/groups")
    assert "web" not in {group["name"] for group in management.get("/groups").json()["items"]}


def test_a_version_is_published_to_a_part_of_the_group_first(
    console: Console, server: Server, management: httpx.Client
) -> None:
    page = console.page
    console.accept_questions()
    management.post("/groups", json={"name": "staged"}).raise_for_status()
    server.enroll(management, "first", groups=["staged"])
    management.put("/groups/staged/files/staged.yml", content="a: 1\n").raise_for_status()
    console.open("/console/groups/staged/files/staged.yml")
    page.get_by_label("Publish to a percentage first").fill("100")
    store(console, "a: 2\n")
    expect(page.get_by_role("status")).to_contain_text("100 % of the group's agents")
    expect(page.get_by_text("Version 2 is staged for 100 % of the agents")).to_be_visible()
    expect(page.get_by_text("1 agents are chosen")).to_be_visible()
    page.reload()
    console.check("file-stage")
    page.get_by_role("button", name="Promote to all").click()
    expect(page.get_by_role("status")).to_contain_text("get version 2")
    expect(page.get_by_role("row", name="2 current")).to_be_visible()
    console.open("/console/groups/staged")
    console.check("group")
    page.get_by_role("button", name="Push files again").click()
    expect(page.get_by_role("status")).to_contain_text("1 agents get an order")


def test_a_reader_sees_files_but_no_buttons(
    new_console: Callable[..., Console], server: Server, management: httpx.Client
) -> None:
    server.user(management, "groupreader", "reader")
    management.post("/groups", json={"name": "seen"}).raise_for_status()
    management.put("/groups/seen/files/seen.yml", content=HOSTILE).raise_for_status()
    console = new_console()
    console.enter("groupreader")
    for path in ("", "/seen", "/seen/files/seen.yml"):
        console.open(f"/console/groups{path}")
        expect(console.page.get_by_role("main").get_by_role("button")).to_have_count(0)
    expect(console.page.get_by_label("Content")).to_have_text(HOSTILE.strip())
    assert console.faults == []


def test_files_that_the_editor_cannot_show_are_for_the_command_line(console: Console, management: httpx.Client) -> None:
    management.post("/groups", json={"name": "large"}).raise_for_status()
    contents = {"bytes.bin": b"\xff\xfe\x00", "large.txt": b"x" * (EDITED_BYTES_MAXIMUM + 1)}
    for name, content in contents.items():
        management.put(f"/groups/large/files/{name}", content=content).raise_for_status()
        console.open(f"/console/groups/large/files/{name}")
        expect(console.page.get_by_text("comms-api files get")).to_be_visible()
        expect(console.page.get_by_label("Content")).to_have_count(0)
    assert console.open("/console/groups/large/files/missing.yml").status == 404


def test_a_large_group_is_shown_before_its_agents_are_counted(
    console: Console, server: Server, management: httpx.Client, query: Callable[..., object]
) -> None:
    management.post("/groups", json={"name": "crowd"}).raise_for_status()
    query(INSERT_MEMBERS, "crowd", COUNTED_AT_ONCE + 1)
    unscripted = console.page.context.request.get(f"{server.management_url}/console/groups/crowd").text()
    assert "run these files" in unscripted
    assert unscripted.count("…</span>") == 3
    console.open("/console/groups/crowd")
    expect(console.page.get_by_role("link", name=re.compile(r"5\s001\s*run these files"))).to_be_visible()
