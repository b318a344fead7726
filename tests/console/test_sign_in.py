"""Sessions of the console: signing in and out, in a browser and by plain requests."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect
from support.browsers import Console
from support.server import PASSWORD, Server
from support.waiting import wait_until

from comms_api.console.sessions import DEVICE_COOKIE, SESSION_COOKIE
from comms_api.users.service import session_digest

SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}


def sign_in(client: httpx.Client, name: str = "admin", password: str = PASSWORD, **fields: str) -> httpx.Response:
    form = {"name": name, "password": password} | fields
    return client.post("/console/sign-in", data=form, headers=SAME_ORIGIN)


def session_cookie(client: httpx.Client) -> dict[str, str]:
    """Return the header that the browser of this client sends."""
    return {"Cookie": f"{SESSION_COOKIE}={client.cookies[SESSION_COOKIE]}"}


def test_signing_in_returns_to_the_requested_page(new_console: Callable[..., Console]) -> None:
    console = new_console()
    console.open("/console?x=1")
    expect(console.page).to_have_url(f"{console.server.management_url}/console/sign-in?next=/console%3Fx%3D1")
    console.check("sign-in")
    console.sign_in(password="wrong")
    expect(console.page.get_by_role("alert")).to_contain_text("wrong")
    expect(console.page.get_by_label("User name")).to_have_value("admin")
    console.sign_in()
    expect(console.page).to_have_url(f"{console.server.management_url}/console?x=1")


def test_a_script_cannot_read_the_cookies_and_no_storage_has_a_token(console: Console) -> None:
    cookies = {cookie["name"]: cookie for cookie in console.context.cookies()}
    assert set(cookies) == {SESSION_COOKIE, DEVICE_COOKIE}
    for cookie in cookies.values():
        assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (True, True, "Strict")
    assert console.page.evaluate("document.cookie") == ""
    stored = console.page.evaluate("({...localStorage, ...sessionStorage})")
    assert stored == {"htmx-current-path-for-history": "/console"}


def test_signing_out_ends_the_session_everywhere(console: Console, new_console: Callable[..., Console]) -> None:
    other = new_console()
    other.sign_in()
    expect(other.page).to_have_url(f"{console.server.management_url}/console")
    console.page.get_by_role("button", name="Sign out").click()
    expect(console.page.get_by_role("button", name="Sign in")).to_be_visible()
    assert SESSION_COOKIE not in {cookie["name"] for cookie in console.context.cookies()}
    expect(other.page.get_by_role("button", name="Sign in")).to_be_visible()  # its next poll was refused


def session_ends_in(query: Callable[..., Any], session: str) -> float:
    """Return the seconds until a session ends if nobody uses it."""
    [row] = query(
        "SELECT extract(epoch FROM expires_at - now())::float8 AS seconds FROM refresh_tokens WHERE token_hash = $1",
        session_digest(session),
    )
    seconds: float = row["seconds"]
    return seconds


def test_the_polls_of_an_open_page_do_not_extend_the_session(server: Server, query: Callable[..., Any]) -> None:
    browser = server.client(server.management_url)
    sign_in(browser)
    session = browser.cookies[SESSION_COOKIE]
    query("UPDATE refresh_tokens SET expires_at = now() + interval '1 h'")
    assert browser.get("/console", headers={"HX-Request": "true", "X-Poll": "unattended"}).status_code == 200
    assert session_ends_in(query, session) <= 3_600
    assert browser.get("/console", headers={"HX-Request": "true", "X-Poll": "attended"}).status_code == 200
    assert session_ends_in(query, session) > 11 * 3_600


def test_an_ended_session_answers_no_poll(server: Server, query: Callable[..., Any]) -> None:
    browser = server.client(server.management_url)
    sign_in(browser)
    query("DELETE FROM refresh_tokens")
    assert browser.get("/console", headers={"HX-Request": "true", "X-Poll": "unattended"}).status_code == 401


def test_a_poll_says_whether_somebody_has_used_the_page(console: Console) -> None:
    page = console.page
    page.clock.install()
    console.open("/console")
    page.clock.pause_at(datetime.now(UTC) + timedelta(minutes=1))
    console.settle()

    def next_poll() -> str:
        with page.expect_request(lambda request: "x-poll" in request.headers) as poll:
            page.clock.run_for(5_000)
        console.settle()
        return poll.value.headers["x-poll"]

    assert next_poll() == "unattended"
    page.mouse.click(600, 400)
    assert next_poll() == "attended"
    page.keyboard.press("Shift")
    assert next_poll() == "attended"
    assert next_poll() == "unattended"


def test_an_ended_session_leads_to_the_sign_in(server: Server, management: httpx.Client) -> None:
    server.user(management, "leaver", "reader")
    browser = server.client(server.management_url)
    assert sign_in(browser, "leaver").status_code == 303
    assert browser.get("/console").status_code == 200
    management.delete("/users/leaver").raise_for_status()
    wait_until(lambda: browser.get("/console").status_code != 200)
    answer = browser.get("/console?after=1")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/console/sign-in?next=/console%3Fafter%3D1")
    part = browser.get(
        "/console", headers={"HX-Request": "true", "HX-Current-URL": f"{server.management_url}/console?x=2"}
    )
    assert (part.status_code, part.headers["HX-Redirect"]) == (401, "/console/sign-in?next=/console%3Fx%3D2")


def test_a_link_of_another_site_asks_again_before_it_asks_to_sign_in(server: Server) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    with server.client(server.management_url) as client:
        answer = client.get("/console?x=1", headers=headers)
    assert answer.status_code == 200
    assert '<meta http-equiv="refresh" content="0">' in answer.text


@pytest.mark.parametrize(
    "page", ["https://evil.example/", "//evil.example", "/console\\@evil.example", "/consoles", "/x"]
)
def test_signing_in_never_leads_to_another_site(server: Server, page: str) -> None:
    with server.client(server.management_url) as client:
        assert sign_in(client, next=page).headers["Location"] == "/console"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "https://localhost"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
def test_a_form_of_another_site_is_refused(server: Server, headers: dict[str, str]) -> None:
    with server.client(server.management_url) as client:
        form = {"name": "admin", "password": PASSWORD}
        assert client.post("/console/sign-in", data=form, headers=headers).status_code == 403


def test_a_change_needs_the_token_of_the_session(server: Server) -> None:
    browser, other = server.client(server.management_url), server.client(server.management_url)
    sign_in(browser)
    sign_in(other)
    _, _, after = other.get("/console").text.partition('"X-CSRF-Token": "')
    for headers in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": after.partition('"')[0]}):
        assert browser.post("/console/sign-out", headers=SAME_ORIGIN | headers).status_code == 403
    assert browser.get("/console").status_code == 200


def test_wrong_passwords_lock_strangers_out_but_not_a_known_browser(server: Server, management: httpx.Client) -> None:
    server.user(management, "guessed", "reader")
    known, stranger = server.client(server.management_url), server.client(server.management_url)
    assert sign_in(known, "guessed").status_code == 303
    statuses = [sign_in(stranger, "guessed", "wrong").status_code for _ in range(7)]
    assert statuses[:5] == [401] * 5
    assert 429 in statuses
    assert sign_in(known, "guessed").status_code == 303


def test_a_session_is_neither_an_access_token_nor_a_refresh_token(server: Server) -> None:
    browser = server.client(server.management_url)
    sign_in(browser)
    session = browser.cookies[SESSION_COOKIE]
    with server.client(server.management_url) as client:
        assert client.get("/agents", headers={"Authorization": f"Bearer {session}"}).status_code == 401
        refused = client.post("/security/user/refresh", json={"refresh_token": session})
        assert refused.status_code == 401
        assert client.get("/agents", headers=session_cookie(browser)).status_code == 401
    tokens = server.client(server.management_url).post("/security/user/authenticate", auth=("admin", PASSWORD)).json()
    for token in (tokens["data"]["refresh_token"], tokens["data"]["token"]):
        with server.client(server.management_url) as client:
            answer = client.get("/console", headers={"Cookie": f"{SESSION_COOKIE}={token}"})
        assert answer.status_code == 303


def test_every_page_forbids_inline_code_and_frames(server: Server) -> None:
    with server.client(server.management_url) as client:
        for path in ("/console/sign-in", "/console", "/console/missing"):
            policy = client.get(path).headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy


def test_no_password_gets_into_a_url_even_if_no_script_runs(server: Server) -> None:
    browser = server.client(server.management_url)
    sign_in(browser)
    for path in ("sign-in", "account", "users"):
        forms = browser.get(f"/console/{path}").text.split("<form")[1:]
        methods = {'method="post"' in form for form in forms if 'type="password"' in form}
        assert methods == {True}, path
