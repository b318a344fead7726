"""Run Debian's Chromium, and use the console in it as people do."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, Response, expect, sync_playwright

from support.balancers import install
from support.server import PASSWORD, Server
from support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "build" / "console"
AXE = (ROOT / "tests" / "console" / "vendored" / "axe.min.js").read_text()
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 860}

MILLISECONDS = PATIENCE * 1_000
expect.set_options(timeout=MILLISECONDS)

INERT_UNTIL_LOADED = """
    new MutationObserver((_, observer) => {
        if (!document.documentElement) return;
        document.documentElement.inert = document.readyState !== "complete";
        observer.disconnect();
    }).observe(document, {childList: true});
    addEventListener("load", () => { document.documentElement.inert = false; });
"""
"""A person starts to click and type when a page has loaded; Playwright would start before the page's scripts."""


@contextmanager
def running_chromium(folder: Path) -> Iterator[Browser]:
    """Run a browser for the block; its files are in `folder`."""
    program = install("chromium", runs_as_root=False)
    # Chromium's sandbox needs a user other than root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    variables = {**os.environ, "HOME": str(folder), "TMPDIR": str(folder)}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program,
            args=[*arguments, "--disable-dev-shm-usage"],
            env=variables,
            timeout=MILLISECONDS,
        )
        try:
            yield browser
        finally:
            browser.close()


class Console:
    """The console of a server, or another page at `url`, in one browser window with its own cookies."""

    def __init__(self, browser: Browser, server: Server, url: str | None = None, **options: Any) -> None:
        self.server = server
        self.url = url or server.management_url
        options = {"ignore_https_errors": True, "viewport": DESKTOP, "timezone_id": "Europe/Berlin"} | options
        self.context = browser.new_context(base_url=self.url, **options)
        self.context.set_default_timeout(MILLISECONDS)
        self.context.add_init_script(INERT_UNTIL_LOADED)
        self.page: Page = self.context.new_page()
        self.faults: list[str] = []
        """Errors of scripts, violations of the content security policy, and requests to other hosts."""

        self.page.on("pageerror", lambda error: self.faults.append(f"script: {error}"))
        self.page.on("console", lambda message: message.type == "error" and self._note(message.text))
        self.page.on("request", lambda request: self._check_host(request.url))

    def _note(self, text: str) -> None:
        if not text.startswith(("Failed to load resource", "Response Status Error Code")):  # refusals are answers
            self.faults.append(text)

    def _check_host(self, url: str) -> None:
        if not url.startswith((self.url, "data:", "blob:")):
            self.faults.append(f"a request to {url}")

    def open(self, path: str) -> Response:
        answer = self.page.goto(path)
        assert answer is not None
        return answer

    def sign_in(self, name: str = "admin", password: str = PASSWORD) -> None:
        """Fill in the sign-in page that is shown, or open it first."""
        if "/sign-in" not in self.page.url:
            self.open("/console/sign-in")
        self.page.get_by_label("User name").fill(name)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Sign in").click()

    def enter(self, name: str = "admin", password: str = PASSWORD) -> None:
        """Sign in, and wait for the first page."""
        self.sign_in(name, password)
        self.page.wait_for_url("**/console")

    def csrf(self) -> str:
        """Return the token of the session that the page sends with each change."""
        headers = self.page.locator("body").get_attribute("hx-headers")
        token: str = json.loads(headers or "{}")["X-CSRF-Token"]
        return token

    def accept_questions(self) -> None:
        """Answer each question of the page, such as whether to delete, with yes."""
        self.page.on("dialog", lambda dialog: dialog.accept())

    def check_accessibility(self) -> None:
        """Fail if axe-core finds a serious fault on the page, in either theme."""
        for theme in ("light", "dark"):
            self.page.emulate_media(color_scheme=theme, reduced_motion="reduce")
            # A script of the page may not run: the policy allows only files of the console.
            found = self.page.evaluate(f"async () => {{ {AXE}; return await axe.run(); }}")
            serious = [
                f"{fault['id']}: {fault['help']}: {[node['html'][:200] for node in fault['nodes'][:3]]}"
                for fault in found["violations"]
                if fault["impact"] in {"serious", "critical"}
            ]
            assert serious == [], f"{self.page.url}, {theme}: {json.dumps(serious, indent=1)}"
        self.page.emulate_media(color_scheme="light")

    def take_pictures(self, name: str) -> None:
        """Save pictures of the page: light, dark, and on a phone; the page must fit the phone's width."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        for suffix, theme, size in (("light", "light", DESKTOP), ("dark", "dark", DESKTOP), ("phone", "light", PHONE)):
            self.page.set_viewport_size(size)
            self.page.emulate_media(color_scheme=theme, reduced_motion="reduce")
            self.page.screenshot(path=PICTURES / f"{name}-{suffix}.png", full_page=True)
        self.check_width(PHONE["width"])
        self.page.set_viewport_size(DESKTOP)
        self.page.emulate_media(color_scheme="light")

    def check_width(self, pixels: int) -> None:
        """Fail if the page is wider than the window, which has just got this width."""
        expect(self.page.locator("html")).to_have_js_property("scrollWidth", pixels)

    def settle(self) -> None:
        """Wait until the page and its parts have loaded."""
        self.page.wait_for_load_state()
        expect(self.page.locator(".htmx-request")).to_have_count(0)

    def check(self, name: str) -> None:
        """Check the accessibility of the loaded page, take its pictures, and fail if it had a fault so far."""
        self.settle()
        self.check_accessibility()
        self.take_pictures(name)
        assert self.faults == []
