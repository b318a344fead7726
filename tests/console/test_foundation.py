"""The common ground of all pages: roles of routes, vendored files, texts, and the state in URLs."""

import tomllib
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import httpx
import msgspec
import pytest
from support.server import PASSWORD, Server

from comms_api.console.pages import CONSOLE_ROUTES
from comms_api.console.queries import query_of, read_form
from comms_api.console.static_files import FILES
from comms_api.console.texts import JSON_BYTES_SHOWN, duration, moment, pretty, size, visible
from comms_api.errors import Malformed

ROOT = Path(__file__).parents[2]
MANIFESTS = [ROOT / "comms_api/console/static/VENDORED.toml", ROOT / "tests/console/vendored/VENDORED.toml"]
PUBLIC_ROUTES = {"/console/static/{name:str}", "/console/sign-in"}


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.parent.name)
def test_vendored_files_are_the_ones_of_the_manifest(manifest: Path) -> None:
    listed = tomllib.loads(manifest.read_text())["file"]
    assert listed
    for file in listed:
        assert sha256((manifest.parent / file["name"]).read_bytes()).hexdigest() == file["sha256"], file["name"]
        assert (manifest.parent / file["license_file"]).is_file()
    minified = {path.name for path in manifest.parent.iterdir() if ".min." in path.name}
    assert minified == {file["name"] for file in listed}


def test_every_route_but_the_sign_in_declares_its_roles() -> None:
    undeclared = {path for route in CONSOLE_ROUTES if not route.opt.get("roles") for path in route.paths}
    assert undeclared == PUBLIC_ROUTES


def test_static_files_are_kept_by_browsers_under_a_url_with_their_hash(server: Server) -> None:
    with server.client(server.management_url) as client:
        for file in FILES.values():
            answer = client.get(file.url)
            assert (answer.status_code, answer.content) == (200, file.content)
            assert "immutable" in answer.headers["Cache-Control"]
        assert client.get("/console/static/missing.js").status_code == 404


def test_the_first_page_is_small(server: Server) -> None:
    with server.client(server.management_url) as client:
        form = {"name": "admin", "password": PASSWORD}
        client.post("/console/sign-in", data=form, headers={"Sec-Fetch-Site": "same-origin"})
        page = client.get("/console").text
        urls = [file.url for file in FILES.values() if file.url in page]
        sizes = [int(client.get(url).headers["Content-Length"]) for url in urls]
    assert len(sizes) >= 5
    assert len(page) + sum(sizes) <= 150_000


def test_an_unknown_page_says_what_to_do(server: Server) -> None:
    with server.client(server.management_url) as client:
        answer = client.get("/console/missing")
    assert (answer.status_code, answer.headers["Content-Type"]) == (404, "text/html; charset=utf-8")
    assert "Go to the overview" in answer.text


def test_a_service_sees_no_page(server: Server, management: httpx.Client) -> None:
    server.user(management, "collector", "service")
    with server.client(server.management_url) as client:
        form = {"name": "collector", "password": PASSWORD}
        client.post("/console/sign-in", data=form, headers={"Sec-Fetch-Site": "same-origin"})
        answer = client.get("/console")
    assert answer.status_code == 403
    assert "Sign out" in answer.text


def test_hostile_texts_are_escaped_and_their_controls_are_visible() -> None:
    assert visible("<b>&") == "&lt;b&gt;&amp;"
    assert visible("a\x1b[2Jb") == 'a<span class="control">\\x1b</span>[2Jb'
    assert visible("\u202egpj") == '<span class="control">\\u202e</span>gpj'
    long = visible("x" * 2**20)
    assert len(long) < 400
    assert "1048576 characters" in long


def test_json_is_indented_escaped_and_cut() -> None:
    assert pretty({"a": ["<"]}) == "{\n  &#34;a&#34;: [\n    &#34;&lt;&#34;\n  ]\n}"
    assert len(pretty(msgspec.Raw(b'"' + b"x" * 2**20 + b'"'))) < JSON_BYTES_SHOWN + 200
    assert "\x1b" not in pretty(msgspec.Raw(b'{"a":"\x1b"}'))
    assert pretty(msgspec.Raw(b"[" * 5_000 + b"]" * 5_000))


def test_numbers_and_times_have_units() -> None:
    assert [duration(seconds) for seconds in (0.4, 59, 3_599, 90_000)] == ["0 s", "59 s", "59 min", "1 d"]
    assert [size(number) for number in (0, 1023, 1536, 2**20)] == ["0 B", "1023 B", "1.5 KiB", "1.0 MiB"]
    assert moment(None) == "never"
    assert "2026-01-02 03:04:05 UTC" in moment(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str | None = None
    is_shown: bool = False
    limit: int = 50


def test_the_state_of_a_page_is_its_query() -> None:
    state = read_form(b"name=a%26b&is_shown=true&limit=", State)
    assert state == State("a&b", is_shown=True)
    assert query_of(state) == "?name=a%26b&is_shown=true"
    assert query_of(state, name=None, is_shown=False) == "?"


@pytest.mark.parametrize("body", [b"limit=x", b"other=1", b"name=%00", b"\xff", b"&".join([b"a=1"] * 300)])
def test_a_faulty_form_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        read_form(body, State)
