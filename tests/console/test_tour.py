"""The tour: what a person does with a new server, from its first start to a blocked agent, in one browser."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, expect
from support.browsers import Console
from support.server import running_server
from support.waiting import PATIENCE, pause

AGENT = "web-1"
GROUP = "web"
LINE = "May 12 10:15:01 web-1 sshd[812]: Accepted publickey for deploy from 192.0.2.7"


def test_a_new_server_from_its_first_start_to_a_blocked_agent(browser: Browser, scratch: Path, tmp_path: Path) -> None:
    with running_server(scratch / "tour", None, admin_password_file=None, node_name="node-1") as server:
        console = Console(browser, server)
        console.accept_questions()
        sign_in(console, (server.folder / "data" / "admin.password").read_text().strip())
        create_group(console)
        with running_agent(enrollment_commands(console), tmp_path) as agent:
            see_agent(console)
            send_command(console)
            see_events(console, tmp_path / "app.log")
            change_file(console, agent)
            block_agent(console)
        console.context.close()
        assert console.faults == []


def sign_in(console: Console, password: str) -> None:
    console.open("/console")
    console.check("tour-01-sign-in")
    console.sign_in(password=password)
    expect(console.page.get_by_text("No agent is enrolled yet")).to_be_visible()
    console.check("tour-02-first-page")


def create_group(console: Console) -> None:
    page = console.page
    page.get_by_role("link", name="Groups and files").click()
    console.check("tour-03-no-groups")
    page.get_by_label("Name").fill(GROUP)
    page.get_by_role("button", name="Create group").click()
    page.wait_for_url(f"**/console/groups/{GROUP}")
    page.get_by_label("Content").fill("logcollector:\n  enabled: true\n")
    page.get_by_role("button", name="Store file").click()
    page.wait_for_url(f"**/files/{GROUP}.yml")


def enrollment_commands(console: Console) -> str:
    """Create a token for one agent, and return the commands that the page shows."""
    page = console.page
    page.get_by_role("link", name="Enrollment").click()
    page.get_by_label("Number of agents").fill("1")
    page.get_by_label("Groups").fill(GROUP)
    page.get_by_label("Description").fill("The first web server")
    page.get_by_role("button", name="Create token").click()
    commands = page.get_by_label("Commands").inner_text()
    console.check("tour-04-enrollment")
    return commands


@contextmanager
def running_agent(commands: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the commands as a person would paste them; the agent also gets a name, and a log file to follow."""
    (folder / "app.log").touch()
    *preparation, start = commands.splitlines()
    options = "--name web-1 --log-file ../app.log --from-start --batch-seconds 0.2 --wait-seconds 5"
    script = "\n".join([*preparation, f"exec {start} {options}"])
    shell = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with (folder / "stderr").open("wb") as log:
        agent = subprocess.Popen(["/bin/sh", "-ec", script], cwd=folder, env=shell, stderr=log)
    try:
        yield agent
    finally:
        agent.send_signal(signal.SIGCONT)
        agent.terminate()
        agent.wait(timeout=PATIENCE)


def see_agent(console: Console) -> None:
    page = console.page
    page.get_by_role("link", name="Agents", exact=True).click()
    row = page.get_by_role("row", name=AGENT)
    expect(row.locator(".badge.active")).to_be_visible()
    console.check("tour-05-agents")
    row.get_by_role("link", name=AGENT).click()
    expect(page.get_by_text("in sync", exact=True)).to_be_visible()
    console.check("tour-06-agent")


def send_command(console: Console) -> None:
    page = console.page
    page.get_by_role("link", name="Commands", exact=True).click()
    page.get_by_role("link", name="Compose a command").first.click()
    page.locator("#action").select_option("restart")
    page.get_by_label("Groups", exact=True).check()
    page.get_by_label("Names of groups").fill(GROUP)
    expect(page.locator("#recipients")).to_contain_text(AGENT)
    console.check("tour-07-compose")
    page.get_by_role("button", name="Send command").click()
    page.wait_for_url(re.compile("/console/commands/[0-9a-f-]{36}$"))
    expect(page.get_by_role("heading", name="1 of 1 orders have ended")).to_be_visible()
    expect(page.get_by_role("table").locator(".badge.success")).to_be_visible()
    console.check("tour-08-command")


def see_events(console: Console, log_file: Path) -> None:
    page = console.page
    log_file.write_text(f"{LINE}\n" * 20)
    page.get_by_role("link", name="Agents", exact=True).click()
    page.get_by_role("link", name=AGENT).click()
    expect(page.get_by_role("region", name="Latest events")).to_contain_text("publickey")
    page.get_by_role("link", name="Overview").click()
    expect(page.get_by_role("link", name=re.compile("events, last minute"))).to_be_visible()
    console.check("tour-09-overview")
    page.get_by_role("link", name="Events", exact=True).click()
    page.get_by_label("Contains").fill("publickey")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("region", name="Events").get_by_role("row")).to_have_count(21)
    console.check("tour-10-events")


def change_file(console: Console, agent: subprocess.Popen[bytes]) -> None:
    """Change the file of the group while the agent sleeps, see the drift, and see it go when the agent wakes up."""
    page = console.page
    pause(agent.pid)
    page.get_by_role("link", name="Groups and files").click()
    page.get_by_role("link", name=GROUP, exact=True).click()
    page.get_by_role("link", name=f"{GROUP}.yml").click()
    page.get_by_label("Content").fill("logcollector:\n  enabled: false\n")
    page.get_by_role("button", name="Store as the next version").click()
    expect(page.get_by_role("status")).to_contain_text("Version 2 is stored")
    page.get_by_role("link", name=GROUP, exact=True).click()
    expect(page.get_by_role("link", name=re.compile(r"1\s*do not run them yet"))).to_be_visible()
    console.check("tour-11-drift")
    agent.send_signal(signal.SIGCONT)
    expect(page.get_by_role("link", name=re.compile(r"1\s*run these files"))).to_be_visible()
    console.check("tour-12-in-sync")


def block_agent(console: Console) -> None:
    page = console.page
    page.get_by_role("link", name="Agents", exact=True).click()
    page.get_by_role("link", name=AGENT).click()
    page.get_by_role("button", name="Block").click()
    expect(page.get_by_role("status")).to_contain_text(f"{AGENT} is blocked")
    expect(page.locator(".badge.blocked")).to_be_visible()
    console.check("tour-13-blocked")
