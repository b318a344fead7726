"""The pages for nodes, enrollment, users and one's own account."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from playwright.sync_api import expect
from support.browsers import Console
from support.server import PASSWORD, Server
from support.waiting import PATIENCE


def test_a_node_is_drained_and_resumed(console: Console) -> None:
    console.open("/console/nodes")
    console.accept_questions()
    expect(console.page.get_by_role("heading", level=1)).to_have_text("Nodes")
    console.check("nodes")
    console.page.get_by_role("button", name="Drain").click()
    expect(console.page.get_by_role("status")).to_contain_text("drains")
    expect(console.page.locator(".badge.draining").first).to_be_visible()
    console.page.get_by_role("button", name="Resume").click()
    expect(console.page.get_by_role("button", name="Drain")).to_be_visible()
    expect(console.page.locator(".badge.active").first).to_be_visible()
    console.page.get_by_role("button", name="Rebalance").click()
    expect(console.page.get_by_role("status")).to_contain_text("No process holds")


def test_a_reader_sees_the_nodes_but_no_buttons(
    new_console: Callable[..., Console], server: Server, management: httpx.Client
) -> None:
    server.user(management, "watcher", "reader")
    console = new_console()
    console.enter("watcher")
    console.open("/console/nodes")
    expect(console.page.get_by_role("main").get_by_role("button")).to_have_count(0)
    links = console.page.get_by_role("navigation", name="Main").get_by_role("link")
    expect(links.filter(has_text=re.compile("Users|Enrollment"))).to_have_count(0)
    for path in ("/console/users", "/console/enrollment"):
        assert console.open(path).status == 403


def test_the_commands_of_a_new_token_enroll_an_agent(
    console: Console, tmp_path: Path, management: httpx.Client
) -> None:
    management.post("/groups", json={"name": "racks"}).raise_for_status()
    console.open("/console/enrollment")
    console.accept_questions()
    console.check("enrollment")
    console.page.get_by_label("Number of agents").fill("3")
    console.page.get_by_label("Groups").fill("racks")
    console.page.get_by_label("Description").fill("rack <b>7</b>")
    console.page.get_by_role("button", name="Create token").click()
    commands = console.page.get_by_label("Commands").inner_text()
    console.check("enrollment-made")
    certificate = x509.load_pem_x509_certificate((console.server.folder / "certs" / "ca.pem").read_bytes())
    expect(console.page.get_by_text(certificate.fingerprint(SHA256()).hex(":").upper())).to_be_visible()

    lines = commands.splitlines()
    lines[-1] += " --once --no-inventory --name pasted"
    shell = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["/bin/sh", "-ec", "\n".join(lines)], cwd=tmp_path, env=shell, check=True, timeout=PATIENCE)
    [agent] = management.get("/agents", params={"name": "pasted"}).json()["items"]
    assert agent["groups"] == ["racks"]

    row = console.page.get_by_role("row", name="rack <b>7</b>")
    console.page.reload()
    expect(row.get_by_role("cell").nth(1)).to_have_text("2")
    row.get_by_role("button", name="Revoke").click()
    expect(row).to_have_count(0)


def test_an_unknown_group_creates_no_token(console: Console, management: httpx.Client) -> None:
    before = management.get("/enrollment-tokens").json()
    console.open("/console/enrollment")
    console.page.get_by_label("Groups").fill("no-such-group")
    console.page.get_by_role("button", name="Create token").click()
    expect(console.page.get_by_role("alert")).to_contain_text("no-such-group")
    expect(console.page.get_by_label("Commands")).to_have_count(0)
    assert management.get("/enrollment-tokens").json() == before


def test_users_are_created_changed_and_deleted(console: Console, new_console: Callable[..., Console]) -> None:
    page = console.page
    console.open("/console/users")
    console.accept_questions()
    page.get_by_label("Name", exact=True).fill("ana")
    page.locator("#password").fill("short")
    page.get_by_role("button", name="Create user").click()
    expect(page.get_by_role("row", name="ana")).to_have_count(0)  # the browser asks for 12 characters
    page.locator("#password").fill(PASSWORD)
    page.get_by_role("button", name="Create user").click()
    expect(page.get_by_role("status")).to_contain_text("ana can sign in as reader")

    row = page.get_by_role("row", name="ana")
    row.get_by_text("Change", exact=False).first.click()
    expect(row.locator("time")).to_have_attribute("title", re.compile("UTC$"))  # the text is in the browser's zone
    expect(row.locator("time")).not_to_contain_text("UTC")
    expect(page.locator("#password")).to_have_value("")
    console.check("users")
    row.get_by_label("Role of ana").select_option("operator")
    row.get_by_role("button", name="Set role").click()
    expect(page.get_by_role("status")).to_contain_text("ana is now operator")
    expect(row.locator(".badge")).to_have_text("operator")

    ana = new_console()
    ana.enter("ana")
    row.get_by_role("button", name="Delete ana").click()
    expect(row).to_have_count(0)
    expect(page.get_by_role("row", name="admin").get_by_role("button")).to_have_count(0)


def test_a_new_password_ends_the_session(
    new_console: Callable[..., Console], server: Server, management: httpx.Client
) -> None:
    server.user(management, "changer", "reader")
    console = new_console()
    console.enter("changer")
    console.page.get_by_title("Your account").click()
    console.check("account")
    console.page.get_by_label("Current password").fill("not the password")
    console.page.get_by_label("New password").fill("another good password")
    console.page.get_by_role("button", name="Change password").click()
    expect(console.page.get_by_role("alert")).to_contain_text("password")
    console.page.get_by_label("Current password").fill(PASSWORD)
    console.page.get_by_role("button", name="Change password").click()
    expect(console.page.get_by_role("button", name="Sign in")).to_be_visible()
    console.enter("changer", "another good password")
