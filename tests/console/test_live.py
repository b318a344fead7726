"""Live parts: viewers share them, and changes are seen at once."""

import asyncio

import httpx
import pytest
from litestar import Response
from support.server import PASSWORD, Server

from comms_api.console import live
from comms_api.console.live import FRESH_SECONDS, Key, LiveParts, fresh_seconds
from comms_api.errors import Unavailable

POLL = {"HX-Request": "true", "X-Poll": "unattended"}
CHANGED = {"HX-Request": "true"}
KEY = Key("reader", "/console/nodes", "")


class Page:
    """A page that counts how often it was made."""

    def __init__(self) -> None:
        self.made = 0
        self.is_broken = False
        self.may_finish = asyncio.Event()
        self.may_finish.set()

    async def make(self) -> Response[bytes]:
        self.made += 1
        made = self.made
        await self.may_finish.wait()
        if self.is_broken:
            raise Unavailable("The database does not answer.")
        return Response(str(made).encode())


@pytest.mark.anyio
async def test_viewers_who_ask_at_the_same_time_wait_for_one_part() -> None:
    parts, page = LiveParts(), Page()
    page.may_finish.clear()
    waiting = [asyncio.create_task(parts.get(KEY, page.make, is_poll=True)) for _ in range(50)]
    await asyncio.sleep(0)
    waiting[0].cancel()  # the viewer whose request makes the part leaves
    page.may_finish.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert [answer.content for answer in answers[1:] if isinstance(answer, Response)] == [b"1"] * 49


@pytest.mark.anyio
async def test_a_request_after_a_change_makes_a_new_part_which_later_polls_get() -> None:
    parts, page = LiveParts(), Page()
    page.may_finish.clear()
    old = asyncio.create_task(parts.get(KEY, page.make, is_poll=True))
    await asyncio.sleep(0)
    page.may_finish.set()
    assert (await parts.get(KEY, page.make, is_poll=False)).content == b"2"
    assert (await old).content == b"1"
    assert (await parts.get(KEY, page.make, is_poll=True)).content == b"2"


@pytest.mark.anyio
async def test_a_part_that_failed_is_made_again() -> None:
    parts, page = LiveParts(), Page()
    page.is_broken = True
    with pytest.raises(Unavailable):
        await parts.get(KEY, page.make, is_poll=True)
    page.is_broken = False
    assert (await parts.get(KEY, page.make, is_poll=True)).content == b"2"


@pytest.mark.anyio
async def test_a_part_that_takes_long_is_made_less_often() -> None:
    parts, page = LiveParts(), Page()
    page.may_finish.clear()
    making = asyncio.create_task(parts.get(KEY, page.make, is_poll=True))
    await asyncio.sleep(FRESH_SECONDS / 10)
    page.may_finish.set()
    await making
    await asyncio.sleep(FRESH_SECONDS)
    assert (await parts.get(KEY, page.make, is_poll=True)).content == b"1"


@pytest.mark.parametrize(
    ("making_seconds", "parts", "seconds"), [(0.001, 1, 2.5), (0.1, 1, 5), (0.1, 4, 20), (0.1, 64, 60)]
)
def test_all_parts_together_have_a_share_of_the_time(making_seconds: float, parts: int, seconds: float) -> None:
    assert fresh_seconds(making_seconds, parts) == pytest.approx(seconds)


@pytest.mark.anyio
async def test_a_part_that_nobody_polls_any_more_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, page = LiveParts(), Page()
    await parts.get(KEY, page.make, is_poll=True)
    monkeypatch.setattr(live, "POLLED_SECONDS", 0.0)
    await parts.get(Key("reader", "/console/orders", ""), page.make, is_poll=True)
    assert len(parts) == 1


def browser_of(server: Server, name: str) -> httpx.Client:
    client = server.client(server.management_url)
    form = {"name": name, "password": PASSWORD}
    client.post("/console/sign-in", data=form, headers={"Sec-Fetch-Site": "same-origin"})
    return client


def test_viewers_share_a_part_with_their_role_only(server: Server, management: httpx.Client) -> None:
    for name, role in (("first", "operator"), ("second", "operator"), ("watcher", "reader")):
        server.user(management, name, role)
    first, second, watcher = (browser_of(server, name) for name in ("first", "second", "watcher"))
    part = first.get("/console/nodes", headers=CHANGED).text
    assert "first" not in part
    assert "X-CSRF-Token" not in part
    assert "Drain" not in watcher.get("/console/nodes", headers=POLL).text
    assert "Drain" in second.get("/console/nodes", headers=POLL).text
    assert "second" in second.get("/console/nodes").text


def test_no_live_part_contains_its_viewer(server: Server, management: httpx.Client) -> None:
    server.user(management, "zelda", "administrator")
    management.post("/groups", json={"name": "shown"}).raise_for_status()
    browser = browser_of(server, "zelda")
    for path in ("", "/agents", "/commands", "/orders", "/groups", "/groups/shown", "/nodes", "/enrollment"):
        part = browser.get(f"/console{path}", headers=CHANGED).text
        assert 'id="live"' in part
        assert "zelda" not in part
        assert "<html" not in part
