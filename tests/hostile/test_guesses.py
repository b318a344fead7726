"""All nodes together count guesses at keys and passwords one by one, and guesses lock out no other client."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import httpx
import pytest
from sqlalchemy import text
from support.databases import querying
from support.guesses import guess_at_once
from support.server import KEY, PASSWORD, Server, running_server
from support.waiting import PATIENCE, wait_until

from comms_api.database.connection import Engine
from comms_api.tokens.secret import Secret
from comms_api.users.guesses import STRANGERS_FAILURES_ALLOWED, STRANGERS_INTERVAL_SECONDS

WEAK_KEY = "secret"


@pytest.fixture(scope="module")
def other_node(server: Server, database_url: str) -> Iterator[Server]:
    with running_server(server.folder, database_url) as running:
        yield running


def log_in(
    server: Server, name: str, password: str = PASSWORD, *, address: str = "127.0.0.1", device: str | None = None
) -> httpx.Response:
    transport = httpx.HTTPTransport(verify=server.tls, local_address=address)
    headers = {} if device is None else {"Device-Token": device}
    with httpx.Client(base_url=server.management_url, transport=transport, timeout=PATIENCE) as client:
        return client.post("/security/user/authenticate", auth=(name, password), headers=headers)


def device_of(server: Server, name: str, *, address: str = "127.0.0.1") -> str:
    """Log in, and return the device token."""
    token: str = log_in(server, name, address=address).json()["data"]["device_token"]
    return token


def log_in_agent(server: Server, agent_id: UUID, key: str) -> httpx.Response:
    with httpx.Client(base_url=server.agent_url, verify=server.tls, timeout=PATIENCE) as client:
        return client.post("/login", json={"uuid": str(agent_id), "key": key})


def weaken_key(server: Server, database_url: str, agent_id: UUID) -> None:
    """Give an agent a slowly hashed key, as an external database may."""
    secret = Secret((server.folder / "data" / "secret").read_bytes().strip())
    key_hash = secret.hash_weak_key(WEAK_KEY)
    querying(database_url)("UPDATE agents SET key_hash = $1 WHERE id = $2", key_hash, agent_id)


@pytest.fixture(scope="module")
def lock(server: Server, database_url: str) -> Callable[..., None]:
    """Guess a password from this address or from a device until it is locked; the lock outlives the test."""

    def guess_until_locked(name: str, device: str | None = None) -> None:
        wait_until(lambda: log_in(server, name, "wrong password", device=device).status_code == 429)
        longer = "UPDATE login_failures SET locked_until = now() + interval '1 h' WHERE locked_until > '-infinity'"
        querying(database_url)(longer)

    return guess_until_locked


def test_guesses_at_a_user_through_two_nodes_are_evaluated_one_by_one(
    server: Server, other_node: Server, management: httpx.Client
) -> None:
    server.user(management, "guessed", "reader")
    nodes = (server, other_node)
    guess_at_once(lambda number: log_in(nodes[number % 2], "guessed", f"wrong password {number}"), 70)
    assert log_in(other_node, "guessed", address="127.0.0.2").status_code == 200


def test_wrong_guesses_from_anywhere_do_not_lock_out_an_administrator(server: Server, management: httpx.Client) -> None:  # noqa: ARG001
    device = device_of(server, "admin")
    for number in range(9):
        assert log_in(server, "admin", f"wrong password {number}", address="127.0.9.1").status_code in {401, 429}
    assert log_in(server, "admin", address="127.0.9.2").status_code == 200
    assert log_in(server, "admin", address="127.0.9.1", device=device).status_code == 200


def test_strangers_at_the_same_address_do_not_use_up_the_attempts_of_a_device(
    server: Server, other_node: Server, management: httpx.Client, lock: Callable[..., None]
) -> None:
    server.user(management, "neighbour", "reader")
    device = device_of(server, "neighbour")
    lock("neighbour")
    assert log_in(server, "neighbour").status_code == 429
    for node in (server, other_node):
        answer = log_in(node, "neighbour", device=device)
        assert (answer.status_code, answer.json()["data"]["device_token"]) == (200, device)
    assert log_in(server, "neighbour", device="0" * 64).status_code == 429
    assert management.patch("/users/neighbour", json={"password": PASSWORD}).status_code == 204
    assert log_in(server, "neighbour", device=device).status_code == 429


def test_a_thief_of_a_device_token_has_the_attempts_of_one_device(
    server: Server, management: httpx.Client, lock: Callable[..., None]
) -> None:
    server.user(management, "stolen", "reader")
    device = device_of(server, "stolen")
    lock("stolen", device)
    assert log_in(server, "stolen", device=device).status_code == 429
    assert log_in(server, "stolen").status_code == 200


def test_a_device_token_of_one_user_does_not_help_another_user(
    server: Server, management: httpx.Client, lock: Callable[..., None]
) -> None:
    for name in ("one", "another"):
        server.user(management, name, "reader")
    device = device_of(server, "one")
    lock("another")
    assert log_in(server, "another", device=device).status_code == 429


def test_a_user_is_guessed_at_from_many_addresses_at_a_bounded_rate_and_the_owner_is_let_in(
    server: Server, other_node: Server, management: httpx.Client
) -> None:
    server.user(management, "famous", "reader")
    device, nodes, started = device_of(server, "famous"), (server, other_node), time.monotonic()

    def guess(number: int) -> int:
        return log_in(nodes[number % 2], "famous", "wrong", address=f"127.1.{number // 200}.{number % 200}").status_code

    with ThreadPoolExecutor(32) as threads:
        statuses = Counter(threads.map(guess, range(1, 151)))
    let_through = (time.monotonic() - started) / STRANGERS_INTERVAL_SECONDS
    assert set(statuses) == {401, 429}
    assert statuses[401] <= STRANGERS_FAILURES_ALLOWED + 1 + 2 * let_through
    assert log_in(server, "famous", address="127.0.9.3", device=device).status_code == 200
    assert log_in(other_node, "famous").status_code == 200


def test_guesses_at_a_weak_key_are_evaluated_one_by_one_while_an_administrator_logs_in(
    server: Server, other_node: Server, management: httpx.Client, database_url: str
) -> None:
    agent_id = server.enroll(management, "weak")
    weaken_key(server, database_url, agent_id)
    assert log_in_agent(server, agent_id, WEAK_KEY).status_code == 200
    nodes = (server, other_node)
    with ThreadPoolExecutor(1) as thread:
        guessing = thread.submit(
            guess_at_once, lambda number: log_in_agent(nodes[number % 2], agent_id, f"guess {number}"), 400
        )
        assert log_in(server, "admin").status_code == 200
        guessing.result()


def test_counting_a_failure_waits_for_no_disk_and_no_standby(database_url: str) -> None:
    persistence = "SELECT relpersistence FROM pg_class WHERE relname = 'login_failures'"
    assert querying(database_url)(persistence)[0][0] == b"u"


@pytest.mark.anyio
async def test_a_login_with_a_correct_strong_key_does_not_read_the_failures(
    server: Server, management: httpx.Client, engine: Engine
) -> None:
    agent_id = server.enroll(management, "strong")
    async with engine.begin() as connection:
        await connection.execute(text("LOCK TABLE login_failures IN ACCESS EXCLUSIVE MODE"))
        answer = await asyncio.to_thread(log_in_agent, server, agent_id, KEY)
    assert answer.status_code == 200
