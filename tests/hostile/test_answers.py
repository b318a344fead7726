"""Unread answers cost little memory and do not affect other clients."""

import hashlib
import os
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from support.others import assert_others_are_served
from support.raw import connect, read_answer, request
from support.server import Server, running_server
from support.waiting import PATIENCE, wait_until

MIB = 2**20
FILE_BYTES = 4 * MIB
READERS = 60
SHARE_BYTES = 32 * MIB
TOTAL_BYTES = 40 * MIB
"""The total of the agent API; the management API has the same total."""

GROWTH_BYTES_MAXIMUM = 60 * MIB


@pytest.fixture(scope="module")
def server(folder: Path, database_url: str) -> Iterator[Server]:
    """A node that disconnects no reader during a test."""
    limits = {"answer_bytes_in_flight_maximum": 2 * TOTAL_BYTES, "answer_stall_seconds": 10 * PATIENCE}
    with running_server(folder, database_url, lease_seconds=600, **limits) as running:
        yield running


def put_file(management: httpx.Client, group: str, name: str) -> bytes:
    """Store a file of the largest size, and return its content."""
    content = os.urandom(FILE_BYTES)
    assert management.put(f"/groups/{group}/files/{name}", content=content).status_code == 200
    return content


@pytest.fixture(scope="module")
def content(management: httpx.Client) -> bytes:
    assert management.post("/groups", json={"name": "large"}).status_code == 201
    return put_file(management, "large", "large.bin")


def ask(stack: ExitStack, server: Server, token: str, *headers: str, name: str = "large.bin") -> ssl.SSLSocket:
    """Request a file, and read nothing."""
    connection = stack.enter_context(connect(server.tls, server.agent_port))
    connection.sendall(request("GET", f"/files?file_name={name}", token, b"", *headers))
    return connection


@pytest.mark.parametrize("headers", [(), ("Range: bytes=1-",)], ids=["whole", "part"])
def test_many_clients_that_do_not_read_a_file_share_one_copy(
    server: Server, management: httpx.Client, quiet: UUID, content: bytes, headers: tuple[str, ...]
) -> None:
    agents = [server.enroll(management, f"{headers}-{number}", ("large",)) for number in range(READERS // 6)]
    tokens = [server.token(agent_id) for agent_id in agents for _ in range(6)]
    with ExitStack() as stack:
        read_answer(ask(stack, server, tokens[0]))
        before = server.resident_bytes()
        readers = [ask(stack, server, token, *headers) for token in tokens]
        begun = [reader.recv(1) for reader in readers]
        assert begun == [b"H"] * READERS
        assert server.resident_bytes() - before < GROWTH_BYTES_MAXIMUM
        assert_others_are_served(server, management, quiet)
        for reader in readers[::20]:
            answer = read_answer(reader)
            expected = content[1:] if headers else content
            assert hashlib.sha256(answer.body).digest() == hashlib.sha256(expected).digest()


def test_many_clients_that_do_not_read_the_same_merge_share_one_copy(
    server: Server, management: httpx.Client, quiet: UUID
) -> None:
    assert management.post("/groups", json={"name": "merging"}).status_code == 201
    for letter in "abcdefghijklmno":
        lines = "".join(f"{letter}{number}: {'x' * 1_000}\n" for number in range(250))
        assert management.put(f"/groups/merging/files/{letter}.yml", content=lines).status_code == 200
    tokens = [server.token(server.enroll(management, f"merging-{number}", ("merging",))) for number in range(10)]
    with ExitStack() as stack:
        whole = read_answer(ask(stack, server, tokens[0], name="merged.yml"))
        before = server.resident_bytes()
        readers = [ask(stack, server, token, name="merged.yml") for token in tokens for _ in range(READERS // 10)]
        assert [reader.recv(1) for reader in readers] == [b"H"] * READERS
        assert server.resident_bytes() - before < GROWTH_BYTES_MAXIMUM
        assert_others_are_served(server, management, quiet)
        assert read_answer(readers[-1]).body == whole.body


def test_unread_files_are_held_up_to_a_total(server: Server, management: httpx.Client, quiet: UUID) -> None:
    assert management.post("/groups", json={"name": "many"}).status_code == 201
    names = [f"{number}.bin" for number in range(2 * TOTAL_BYTES // FILE_BYTES)]
    for name in names:
        put_file(management, "many", name)
    tokens = [server.token(server.enroll(management, f"many-{name}", ("many",))) for name in names]
    with ExitStack() as stack:
        readers = [ask(stack, server, token, name=name) for name, token in zip(names, tokens, strict=True)]
        statuses = [int(reader.recv(len("HTTP/1.1 200")).split()[1]) for reader in readers]
        assert set(statuses) == {200, 503}
        assert statuses.count(200) <= TOTAL_BYTES // FILE_BYTES
        assert_others_are_served(server, management, quiet)
    with ExitStack() as stack:
        wait_until(lambda: read_answer(ask(stack, server, tokens[0], name=names[0])).status == 200)


def test_a_client_beyond_its_share_still_gets_304_for_a_file_it_has(
    server: Server, management: httpx.Client, content: bytes
) -> None:
    token = server.token(server.enroll(management, "informed", ("large",)))
    known = f'If-None-Match: "{hashlib.sha256(content).hexdigest()}"'
    with ExitStack() as stack:
        readers = [ask(stack, server, token) for _ in range(SHARE_BYTES // FILE_BYTES)]
        assert [reader.recv(1) for reader in readers] == [b"H"] * len(readers)
        assert read_answer(ask(stack, server, token, known)).status == 304


def test_a_client_that_leaves_more_than_its_share_unread_is_503(
    server: Server, management: httpx.Client, quiet: UUID, content: bytes
) -> None:
    token = server.token(server.enroll(management, "greedy", ("large",)))
    with ExitStack() as stack:
        readers = [ask(stack, server, token) for _ in range(SHARE_BYTES // FILE_BYTES)]
        for reader in readers:
            reader.recv(1)
        refused = read_answer(ask(stack, server, token))
        assert (refused.status, int(refused.headers["retry-after"]) >= 1) == (503, True)
        assert b"your whole share" in refused.body
        assert_others_are_served(server, management, quiet)
        other = server.token(server.enroll(management, "modest", ("large",)))
        assert len(read_answer(ask(stack, server, other)).body) == len(content)
    with ExitStack() as stack:
        wait_until(lambda: read_answer(ask(stack, server, token)).status == 200)
