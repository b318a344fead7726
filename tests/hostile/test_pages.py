"""Pages of large rows end at a limit of bytes, and the next page continues."""

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import Executable
from support.batches import command, state, stateful, stateless
from support.events import batch_of, store_batch
from support.others import assert_others_are_served
from support.server import Server

from comms_api.audit.model import EntryFilter
from comms_api.audit.service import Audit
from comms_api.commands import queries
from comms_api.database.connection import Connection, Engine, Row, compile_statement
from comms_api.database.pages import PAGE_BYTES_MAXIMUM, PageRequest
from comms_api.database.uuid7 import uuid7_at
from comms_api.events import store
from comms_api.orders.model import OrderFilter
from comms_api.orders.queries import list_orders
from comms_api.states.model import StateFilter
from comms_api.states.store import list_states

MIB = 2**20
STATE_BYTES = MIB - 1_000
STATES = 60
EVENT_BYTES = 12 * MIB
"""One event is larger than a page; earlier versions stored such events."""

GROWTH_BYTES_MAXIMUM = 64 * MIB
"""The memory of one page: as rows from the database, as values, and as an answer."""


@pytest.fixture(scope="module")
def loud(server: Server, management: httpx.Client) -> UUID:
    agent_id = server.enroll(management, "loud")
    large = json.dumps({"text": "x" * STATE_BYTES})
    with server.log_in(agent_id) as agent:
        for start in range(0, STATES, 10):
            items = [state(f"{number:03}", data=large.encode()) for number in range(start, start + 10)]
            assert agent.post("/events/stateful", content=stateful(agent_id, *items)).status_code == 200
        body = stateless(agent_id, *[b"\xff" * 8_000] * 400, module="faulty")
        assert agent.post("/events/stateless", content=body).status_code == 204
    return agent_id


def pages_of(management: httpx.Client, path: str, **filters: object) -> Iterator[httpx.Response]:
    """Return every page of a list."""
    after: dict[str, str] = {}
    while True:
        answer = management.get(path, params={"limit": 1_000, **filters, **after})
        assert answer.status_code == 200, answer.text
        yield answer
        if answer.json()["next"] is None:
            return
        after = {"after": answer.json()["next"]}


def test_pages_of_large_states_are_bounded_and_complete(
    server: Server, management: httpx.Client, loud: UUID, quiet: UUID
) -> None:
    management.get("/states", params={"limit": 1})
    server.reset_peak()
    before = server.resident_bytes()
    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(list[httpx.Response], pages_of(management, "/states", agent_id=loud))
        assert_others_are_served(server, server.management(), quiet)
        answers = reading.result()
    assert max(len(answer.content) for answer in answers) <= PAGE_BYTES_MAXIMUM
    ids = [item["id"] for answer in answers for item in answer.json()["items"]]
    assert ids == [f"{number:03}" for number in range(STATES)]
    assert server.peak_bytes() - before < GROWTH_BYTES_MAXIMUM


def test_an_event_larger_than_a_page_is_alone_on_its_page(
    management: httpx.Client, loud: UUID, query: Callable[..., Any]
) -> None:
    half = PAGE_BYTES_MAXIMUM // 2
    sizes = [10, EVENT_BYTES, 10, half, half, 10]
    for number, size in enumerate(sizes):
        line = json.dumps({"text": "x" * size}).encode()
        batch = batch_of(uuid7_at(time.time() + number / 100), loud, [line], module="large")
        store_batch(query, batch)
    pages = [answer.json()["items"] for answer in pages_of(management, "/events", module="large")]
    shown = [[len(item["event"]["text"]) for item in page] for page in pages]
    assert shown == [[10], [EVENT_BYTES], [10, half], [half, 10]]


def test_pages_of_the_quarantine_are_bounded_though_lines_grow_in_json(management: httpx.Client, loud: UUID) -> None:
    answers = list(pages_of(management, "/events/quarantine", agent_id=loud))
    assert sum(len(answer.json()["items"]) for answer in answers) == 400
    assert all(len(answer.content) <= PAGE_BYTES_MAXIMUM for answer in answers)


def test_pages_of_commands_orders_and_the_audit_trail_are_bounded(
    management: httpx.Client, quiet: UUID, query: Callable[..., Any]
) -> None:
    action = {"name": "run", "args": ["/bin/x", "x" * 64_000], "version": "1"}
    large = [command(quiet, action="run") | {"action": action}] * 15  # nearly as many as one submission may hold
    submissions = [management.post("/commands", json={"commands": large}) for _ in range(10)]
    sent = [one["request_id"] for submission in submissions for one in submission.json()["commands"]]
    for path in ("/commands", "/orders"):
        answers = list(pages_of(management, path, limit=200, action="run"))
        assert [item["request_id"] for answer in answers for item in answer.json()["items"]] == sent
        assert len(answers) > 1
        assert all(len(answer.content) <= PAGE_BYTES_MAXIMUM for answer in answers)
    query(
        "INSERT INTO audit (id, actor, operation, subject, key, after) "
        "SELECT gen_random_uuid(), 'test', 'insert', 'large', n::text, json_build_object('x', repeat('x', 400000)) "
        "FROM generate_series(1, 5) AS n"
    )
    answers = list(pages_of(management, "/audit", subject="large"))
    assert [len(answer.json()["items"]) for answer in answers] == [2, 2, 1]
    assert len(management.get("/audit/export").text.splitlines()) >= 5


Run = Callable[[Any], Any]
OLDEST, NEWEST = PageRequest(1_000), PageRequest(1_000, order="newest")
LISTS: dict[str, Run] = {
    "states": lambda connection: list_states(connection, StateFilter(), None, 1_000),
    "quarantine": lambda connection: store.list_quarantined(connection, None, OLDEST),
    "newest quarantine": lambda connection: store.list_quarantined(connection, None, NEWEST),
    "orders": lambda connection: list_orders(connection, OrderFilter(), OLDEST),
    "newest orders": lambda connection: list_orders(connection, OrderFilter(), NEWEST),
    "commands": lambda connection: queries.list_commands(connection, OrderFilter(), OLDEST),
    "newest commands": lambda connection: queries.list_commands(connection, OrderFilter(), NEWEST),
}


class ExplainingConnection(Connection):
    """Explains each statement before it runs."""

    def __init__(self, driver: Any, plans: list[str]) -> None:
        super().__init__(driver)
        self.plans = plans

    async def stream(self, statement: Executable, rows_at_once: int) -> AsyncGenerator[Row, None]:
        sql, values = compile_statement(statement, {})
        self.plans.append("\n".join(line for (line,) in await self.driver.fetch(f"EXPLAIN {sql}", *values)))
        async for row in super().stream(statement, rows_at_once):
            yield row


class ExplainingEngine(Engine):
    """Collects the plans of the statements whose rows are streamed."""

    def __init__(self, sqlalchemy: Engine) -> None:
        super().__init__(sqlalchemy)
        self.plans: list[str] = []

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        async with super().connect() as connection:
            yield ExplainingConnection(connection.driver, self.plans)


@pytest.mark.anyio
@pytest.mark.parametrize("name", [*LISTS, "audit", "newest audit"])
async def test_no_list_is_sorted_to_measure_its_rows(engine: Engine, name: str) -> None:
    """A sort would read each large value of the page's limit before the first row is returned."""
    explaining = ExplainingEngine(engine.sqlalchemy)
    async with explaining.connect() as connection:
        if name.endswith("audit"):
            await Audit(explaining).list(EntryFilter(), NEWEST if name.startswith("newest") else OLDEST)
        else:
            await LISTS[name](connection)
    [plan] = explaining.plans
    above_limit = plan.partition("Limit")[0]
    assert "WindowAgg" in above_limit
    assert "Sort  (" not in above_limit, plan
