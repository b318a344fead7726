"""Every answer has the headers that keep a browser from storing, framing, guessing or downgrading it."""

import base64
import hashlib
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from support.raw import connect, read_answer, request
from support.server import KEY, Server, running_server
from support.speed import assert_no_long_step

from comms_api.http1.answer import STANDARD_HEADERS

HEADERS = {name.decode(): value.decode() for name, value in STANDARD_HEADERS.items()}


@pytest.fixture(scope="module")
def agent_id(server: Server, management: httpx.Client) -> UUID:
    return server.enroll(management, "headers")


def test_answers_of_both_apis_have_the_standard_headers(
    server: Server, management: httpx.Client, agent_id: UUID
) -> None:
    agent, anonymous = server.log_in(agent_id), server.client(server.agent_url)
    answers = {
        "health": anonymous.get("/"),
        "token": anonymous.post("/login", json={"uuid": str(agent_id), "key": KEY}),
        "no token": anonymous.get("/commands"),
        "poll": agent.get("/commands?wait=0"),
        "no such path": management.get("/nothing"),
        "no such method": management.put("/agents"),
        "list": management.get("/agents"),
    }
    lacking = {name: HEADERS.items() - answer.headers.items() for name, answer in answers.items()}
    assert not any(lacking.values()), lacking


@pytest.mark.parametrize("head", [b"no HTTP\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000])
def test_refusals_before_any_route_have_the_standard_headers_too(server: Server, head: bytes) -> None:
    for port in (server.agent_port, server.management_port):
        with connect(server.tls, port) as connection:
            connection.sendall(head)
            assert HEADERS.items() <= read_answer(connection).headers.items()


def test_a_file_may_be_stored_if_it_is_revalidated(server: Server, management: httpx.Client) -> None:
    assert management.post("/groups", json={"name": "headers"}).status_code == 201
    assert management.put("/groups/headers/files/a.txt", content=b"a").status_code == 200
    answer = management.get("/groups/headers/files/a.txt")
    assert {**HEADERS, "cache-control": "no-cache"}.items() <= answer.headers.items()
    again = request("GET", "/groups/headers/files/a.txt", None, b"", f"If-None-Match: {answer.headers['etag']}")
    with connect(server.tls, server.management_port) as connection:
        token = management.headers["Authorization"]
        connection.sendall(again.replace(b"\r\n\r\n", f"\r\nAuthorization: {token}\r\n\r\n".encode()))
        assert read_answer(connection).headers["cache-control"] == "no-cache"


class Page(HTMLParser):
    """The links of a page, and the resources that it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags = set[str]()
        self.attributes = dict[str, set[str]]()
        self.open = list[str]()
        self.texts = dict[str, list[str]]()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attributes:
            self.attributes.setdefault(name, set()).add(value or "")
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)


def test_the_description_of_each_api_is_a_page_without_scripts_and_other_hosts(
    server: Server, management: httpx.Client, agent_id: UUID
) -> None:
    for client in (management, server.log_in(agent_id)):
        answer = client.get("/schema")
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        page = Page(answer.text)
        assert page.tags.isdisjoint({"script", "link", "img", "iframe", "form", "base", "object"})
        assert page.attributes.keys() == {"lang", "charset", "name", "content", "href", "id"}
        assert page.attributes["href"] == {"/schema/openapi.json"}
        [style] = page.texts["style"]
        assert not re.search(r"url|import|//", style)
        allowed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        policy = f"default-src 'none'; style-src 'sha256-{allowed}'; frame-ancestors 'none'"
        assert answer.headers["content-security-policy"] == policy
        shown = {text.partition(" ")[2] for text in page.texts["code"] if " /" in text}
        assert shown == set(client.get("/schema/openapi.json").json()["paths"])


def test_the_description_is_made_without_a_long_step(folder: Path, new_database: Callable[[], str]) -> None:
    with running_server(folder / "described", new_database()) as server:
        paths = ["/schema", "/schema/openapi.json", "/schema/openapi.yaml", "/schema/openapi.yaml"]
        assert [server.management().get(path).status_code for path in paths] == [200] * 4
        assert_no_long_step(server, "'/schema")


@pytest.mark.parametrize("path", ["elements", "rapidoc", "redoc", "scalar", "swagger", "nothing"])
def test_there_is_no_page_that_loads_scripts(management: httpx.Client, path: str) -> None:
    answer = management.get(f"/schema/{path}")
    assert answer.status_code == 404
    assert "//" not in answer.text
