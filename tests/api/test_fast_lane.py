"""The fast lane answers as Litestar does; a query, which no real agent sends, keeps a request out of it."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import httpx
import pytest
from litestar import Litestar, Request, Response, get
from litestar.background_tasks import BackgroundTask
from litestar.datastructures import CacheControlHeader, ETag
from support.batches import command, state, stateful, stateless
from support.server import KEY, Server, new_id

from comms_api.http.fast_lane import FastLane

OTHERWISE = "?by=litestar"
SPELT_OTHERWISE = "/"
"""The same for the management API, which refuses unknown queries."""
UNLIKE = {"date", "retry-after", "connection"}
"""An early answer closes the connection unless the whole body has arrived by then."""

Body = Callable[[UUID], bytes]

BATCHES: list[tuple[str, Body]] = [
    ("/events/stateless", lambda agent_id: stateless(agent_id, b'{"n":1}')),
    ("/events/stateless", lambda _: b"no metadata"),
    ("/events/stateless", lambda _: stateless(UUID(int=1), b"{}")),
    ("/events/stateful", lambda agent_id: stateful(agent_id, state("same", "update", {"n": 1}))),
    ("/api/v1/events/stateful", stateful),
    ("/commands/results", lambda _: b'{"results":[{"order_id":"x","result":{"code":0}}]}'),
    ("/commands/results", lambda _: b"[]"),
    ("/login", lambda agent_id: b'{"uuid":"%s","key":"%s"}' % (str(agent_id).encode(), b"x" * 32)),
    ("/login", lambda _: b"{"),
]


@pytest.fixture(scope="module")
def agent(server: Server, management: httpx.Client) -> tuple[UUID, httpx.Client]:
    agent_id = server.enroll(management, "lanes")
    client = server.log_in(agent_id)
    client.post("/events/stateful", content=stateful(agent_id, state("same", "update", {"n": 1})))
    return agent_id, client


async def let_pass(_request: object, _handler: object) -> None:
    """Guard nothing."""


def pass_on(response: Response[Any]) -> Response[Any]:
    """Return the response, as a hook may."""
    return response


def parts_of(answer: httpx.Response) -> tuple[int, dict[str, str], object]:
    headers = {name: value for name, value in answer.headers.items() if name not in UNLIKE}
    body = answer.json() if answer.content else None
    if isinstance(body, dict):
        body.pop("instance", None)
    return answer.status_code, headers, body


@pytest.mark.parametrize(("path", "body"), BATCHES)
def test_both_lanes_answer_alike(agent: tuple[UUID, httpx.Client], path: str, body: Body) -> None:
    agent_id, client = agent
    answers = [parts_of(client.post(path + lane, content=body(agent_id))) for lane in ("", OTHERWISE)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("encoding", ["gzip", "br"])
def test_both_lanes_refuse_an_encoding_alike(agent: tuple[UUID, httpx.Client], encoding: str) -> None:
    _, client = agent
    headers = {"Content-Encoding": encoding}
    answers = [
        parts_of(client.post("/events/stateless" + lane, content=b"x" * 100_000, headers=headers))
        for lane in ("", OTHERWISE)
    ]
    assert answers[0] == answers[1]
    assert answers[0][0] in {400, 415}


def test_both_lanes_require_a_token_and_an_allowed_method(server: Server) -> None:
    client = server.client(server.agent_url)
    for path in ("/events/stateless", "/events/stateful", "/commands/results"):
        assert parts_of(client.post(path)) == parts_of(client.post(path + OTHERWISE))
        assert parts_of(client.get(path)) == parts_of(client.get(path + OTHERWISE))
    assert parts_of(client.get("/commands")) == parts_of(client.get("/commands" + OTHERWISE))


def test_a_login_by_either_lane_gives_a_token(agent: tuple[UUID, httpx.Client]) -> None:
    agent_id, client = agent
    for lane in ("", OTHERWISE):
        answer = client.post("/login" + lane, json={"uuid": str(agent_id), "key": KEY})
        assert (answer.status_code, list(answer.json())) == (200, ["token"])


@pytest.mark.parametrize("path", ["/commands", "/api/v1/commands", "/_plugins/_command_manager/commands"])
@pytest.mark.parametrize("group", ["lanes", "nobody", None])
def test_a_submission_by_either_lane_is_answered_alike(management: httpx.Client, path: str, group: str | None) -> None:
    if group == "lanes":
        management.post("/groups", json={"name": "lanes"})
        management.post("/agents", json={"id": str(new_id()), "name": path, "key": KEY, "groups": ["lanes"]})
    body = {} if group is None else command(group, "group")
    answers = [parts_of(management.post(path + lane, json=body)) for lane in ("", SPELT_OTHERWISE)]
    assert [answer[0] for answer in answers] == [{"lanes": 200 if "plugin" in path else 201}.get(str(group), 422)] * 2
    if group == "lanes":
        assert [set(answer[2]) for answer in answers] == [set(answers[0][2])] * 2  # type: ignore[call-overload] # objects
    else:
        assert answers[0] == answers[1]


def test_both_lanes_let_only_the_declared_roles_submit(server: Server, management: httpx.Client) -> None:
    reader = server.user(management, "lanes-reader", "reader")
    answers = [parts_of(reader.post("/commands" + lane, json={})) for lane in ("", SPELT_OTHERWISE)]
    assert answers[0] == answers[1]
    assert answers[0][0] == 403


@pytest.mark.parametrize(
    "options",
    [
        {"response_headers": {"x-own": "1"}},
        {"response_cookies": {"own": "1"}},
        {"cache_control": CacheControlHeader(no_store=True)},
        {"etag": ETag(value="own")},
        {"after_request": pass_on},
        {"background": BackgroundTask(pass_on)},
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_handler_with_an_option_that_only_litestar_applies_is_refused(options: dict[str, Any]) -> None:
    @get("/", **options)
    async def declares() -> None:
        """Answer."""

    with pytest.raises(ValueError, match=f"declares: the fast lane does not apply {next(iter(options))}"):
        FastLane(Litestar([]), let_pass, [declares], {}, "/api/v1")


@pytest.mark.anyio
async def test_a_response_keeps_its_headers_and_cookies() -> None:
    @get("/")
    async def answer(request: Request[Any, Any, Any]) -> Response[dict[str, str]]:
        """Answer with a header and a cookie."""
        return Response({"path": request.url.path}, status_code=202, headers={"x-own": "1"}, cookies={"own": "2"})

    app = FastLane(Litestar([answer]), let_pass, [answer], {}, "/api/v1")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://host") as client:
        by_fast_lane, by_litestar = [await client.get(path) for path in ("/", "/?by=litestar")]
    assert (by_fast_lane.status_code, by_fast_lane.json()) == (202, {"path": "/"})
    assert (by_fast_lane.headers["x-own"], by_fast_lane.cookies["own"]) == ("1", "2")
    assert by_fast_lane.headers == by_litestar.headers
