"""Agents of an external database can log in without enrollment, but only with the data of that database."""

import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from support.databases import querying
from support.guesses import guess_at_once
from support.server import Server, new_id, running_server
from support.waiting import PATIENCE, wait_until

from comms_api.errors import CommsError

PROGRAM = Path(__file__).parents[2] / "examples" / "key_requests" / "agents_from_sql.py"
REFUSAL_SECONDS = 1
KEY, WEAK = "0123456789abcdefghijklmnopqrstuv", "secret"


class External:
    """A server, and the SQLite database that contains its unknown agents."""

    def __init__(self, server: Server, path: Path, another_node: Callable[[], AbstractContextManager[Server]]) -> None:
        self.server = server
        self.another_node = another_node
        self.management = server.management()
        self._path = path

    def put(self, id_: str, name: str, ip: str = "any", key: str = KEY) -> None:
        with sqlite3.connect(self._path) as connection:
            connection.execute("INSERT OR REPLACE INTO agents VALUES (?, ?, ?, ?)", (id_, name, ip, key))
        connection.close()

    def log_in(self, id_: str, key: str = KEY, node: Server | None = None) -> httpx.Response:
        with httpx.Client(base_url=(node or self.server).agent_url, verify=self.server.tls, timeout=PATIENCE) as client:
            return client.post("/api/v1/authentication", json={"uuid": id_, "key": key})

    def find(self, name: str) -> dict[str, Any]:
        [agent] = self.management.get("/agents", params={"name": name}).json()["items"]
        found: dict[str, Any] = agent
        return found


@pytest.fixture(scope="module")
def external(folder: Path, new_database: Callable[[], str]) -> Iterator[External]:
    path = folder / "agents.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE agents (id text PRIMARY KEY, name text NOT NULL, ip text, key text)")
    connection.close()
    program = f"'{sys.executable}' '{PROGRAM}' '{path}'"
    settings = {
        "key_request_program": program,
        "key_request_timeout_seconds": PATIENCE,
        "key_request_by_address": True,
        "key_request_refusal_seconds": REFUSAL_SECONDS,
    }
    start = partial(running_server, folder / "node", new_database(), **settings)
    with start() as server:
        yield External(server, path, start)


def test_one_login_enrolls_and_admits_an_unknown_agent(external: External) -> None:
    external.put("001", "web-1", "127.0.0.0/8")
    answer = external.log_in("001")
    assert answer.status_code == 200, answer.text
    agent = external.find("web-1")
    assert (agent["external_id"], agent["allowed_addresses"]) == ("001", ["127.0.0.0/8"])
    client = external.server.client(external.server.agent_url, answer.json()["token"])
    assert client.get("/commands?wait=0").status_code == 200
    assert external.log_in(agent["id"]).status_code == 200
    entries = external.management.get("/audit", params={"subject": "agents", "key": agent["id"]}).json()["items"]
    assert [entry["actor"] for entry in entries] == ["a key request"]


def test_a_uuid_is_kept_and_a_weak_key_is_accepted_and_hashed_slowly(external: External) -> None:
    agent_id = str(new_id())
    external.put(agent_id, "by-uuid", key=WEAK)
    assert external.log_in(agent_id, WEAK).status_code == 200
    assert external.find("by-uuid")["id"] == agent_id
    assert external.log_in(agent_id, "Secret").json()["message"] == "Invalid key"


def test_simultaneous_guesses_at_a_weak_key_count_one_by_one(external: External) -> None:
    external.put("101", "guessed", key=WEAK)
    assert external.log_in("101", WEAK).status_code == 200
    guess_at_once(lambda number: external.log_in("101", f"guess {number}"))
    external.put("102", "not-guessed", key=WEAK)
    assert external.log_in("102", WEAK).status_code == 200


def test_wrong_keys_for_an_agent_that_is_not_enrolled_yet_are_counted_and_enroll_nobody(external: External) -> None:
    external.put("103", "not-enrolled", key=WEAK)
    guess_at_once(lambda number: external.log_in("103", f"guess {number}"))
    assert external.management.get("/agents", params={"name": "not-enrolled"}).json()["items"] == []


def test_unblocking_an_agent_clears_its_failures_on_every_node(external: External) -> None:
    external.put("104", "unblocked", key=WEAK)
    with external.another_node() as other:
        assert external.log_in("104", WEAK, other).status_code == 200

        def guesses() -> list[int]:
            return [external.log_in("104", "wrong", other).status_code for _ in range(3)]

        wait_until(lambda: 429 in guesses())
        url = f"/agents/{external.find('unblocked')['id']}"
        for is_blocked in (True, False):
            assert external.management.patch(url, json={"is_blocked": is_blocked}).status_code == 200
        wait_until(lambda: guesses() == [401] * 3)
        assert external.log_in("104", WEAK, other).status_code == 200


def test_a_refusal_is_final_and_remembered_for_a_moment(external: External) -> None:
    started = time.monotonic()
    refused = external.log_in("777")
    assert (refused.status_code, refused.json()["message"]) == (403, "Agent does not exist")
    external.put("777", "late")
    assert external.log_in("777").status_code == 403 or time.monotonic() - started > REFUSAL_SECONDS
    wait_until(lambda: external.log_in("777").status_code == 200)


def test_a_key_changed_in_the_external_database_is_adopted(external: External) -> None:
    external.put("002", "changed")
    assert external.log_in("002").status_code == 200
    other = KEY[::-1]
    assert external.log_in("002", other).status_code == 401
    external.put("002", "changed", key=other)
    assert external.log_in("002", other).status_code == 200
    assert external.log_in("002", KEY).status_code == 401


def test_an_address_outside_the_agents_addresses_is_refused_and_is_not_an_outage(external: External) -> None:
    external.put("003", "elsewhere", "10.0.0.0/8")
    assert external.log_in("003").status_code == 403


def test_an_agent_may_be_found_by_its_address(external: External) -> None:
    external.put("004", "by-address", "127.0.0.1")
    answer = external.log_in("999")
    assert answer.status_code == 200, answer.text
    assert external.find("by-address")["external_id"] == "004"


def test_an_invalid_answer_of_the_database_is_an_outage_and_never_final(external: External) -> None:
    external.server.enroll(external.management, "taken")
    external.put("005", "no name at all")
    external.put("006", "taken")
    wait_until(lambda: external.log_in("005").status_code != 429)  # the failures of other tests count for a while
    assert external.log_in("005").status_code == 503
    assert external.log_in("006").status_code == 409
    for hostile in ("1' OR '1'='1", "00", "000000000", "../../etc/passwd"):
        assert external.log_in(hostile).status_code == 422
    assert KEY not in (external.server.folder / "log").read_text()


def test_a_login_without_an_answer_of_the_source_counts_only_if_a_weak_key_was_compared(external: External) -> None:
    for id_, name, key in (("009", "strong", KEY), ("010", "weak", WEAK)):
        external.put(id_, name, key=key)
        assert external.log_in(id_, key).status_code == 200
        external.put(id_, "no name at all")
    other = KEY[::-1]
    assert [external.log_in("009", other).status_code for _ in range(8)] == [503] * 8
    external.put("009", "strong", key=other)
    assert external.log_in("009", other).status_code == 200
    wait_until(lambda: external.log_in("010", "guess").status_code == 429)


def test_a_hundred_simultaneous_logins_enroll_one_agent(external: External) -> None:
    external.put("008", "impatient")
    statuses: list[int] = []
    threads = [Thread(target=lambda: statuses.append(external.log_in("008").status_code)) for _ in range(25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200}
    assert external.find("impatient")["external_id"] == "008"


def test_simultaneous_logins_at_two_nodes_enroll_one_agent(external: External) -> None:
    external.put("011", "everywhere")
    with external.another_node() as other, ThreadPoolExecutor(16) as threads:
        nodes = (external.server, other)
        answers = list(threads.map(lambda number: external.log_in("011", node=nodes[number % 2]), range(32)))
    assert {answer.status_code for answer in answers} == {200}
    assert external.find("everywhere")["external_id"] == "011"


def test_an_agent_that_was_silent_long_enough_is_replaced_by_one_of_its_name(
    folder: Path, new_database: Callable[[], str]
) -> None:
    source = folder / "replacing.sqlite"
    with sqlite3.connect(source) as connection:
        connection.execute("CREATE TABLE agents (id text PRIMARY KEY, name text NOT NULL, ip text, key text)")
        connection.execute("INSERT INTO agents VALUES ('001', 'host-7', 'Any', ?)", (KEY,))
        connection.execute("INSERT INTO agents VALUES ('002', 'host-8', '127.0.0.0/255.0.0.0', ?)", (KEY,))
    connection.close()
    program = f"'{sys.executable}' '{PROGRAM}' '{source}'"
    settings = {"key_request_program": program, "reenroll_after_days": 1}
    url = new_database()
    with running_server(folder / "replacing", url, **settings) as server:
        external = External(server, source, partial(running_server, folder / "replacing", url))
        old = server.enroll(external.management, "host-7")
        assert external.log_in("001").status_code == 409
        querying(url)("UPDATE agents SET created_at = now() - interval '2 days' WHERE id = $1", old)
        assert external.log_in("001").status_code == 200
        assert external.find("host-7")["id"] != str(old)
        assert external.log_in(str(old)).status_code == 403
        assert external.log_in("002").status_code == 200
        assert external.find("host-8")["allowed_addresses"] == ["127.0.0.0/8"]


def test_wrong_keys_for_unknown_ids_are_refused_beyond_a_rate_and_right_keys_are_not(
    folder: Path, new_database: Callable[[], str]
) -> None:
    program = folder / "weak-keys.sh"
    answer = """printf '{"error":0,"data":{"id":"%s","name":"agent-%s","ip":"any","key":"weak"}}' "$2" "$2" """
    program.write_text(f"#!/bin/sh\necho $2 >>'{folder}/lookups'\n{answer}")
    program.chmod(0o755)
    rate = {"key_request_address_failures_per_minute": 15}  # one failure is free
    url = new_database()
    with running_server(folder / "limited", url, key_request_program=f"'{program}'", **rate) as server:
        external = External(server, folder / "none", partial(running_server, folder / "limited", url))
        assert [external.log_in(str(number), "weak").status_code for number in range(100, 120)] == [200] * 20
        wait_until(lambda: external.log_in(str(new_id()), "wrong").status_code == 429)
        querying(url)("UPDATE login_failures SET locked_until = now() + interval '1 h'")
        lookups = (folder / "lookups").read_text()
        refused = external.log_in("200", "weak")
        assert (refused.status_code, int(refused.headers["Retry-After"]) > 0) == (429, True)
        assert external.log_in("100", "weak").status_code == 200
        assert (folder / "lookups").read_text() == lookups


def test_known_agents_log_in_while_no_source_is_reachable(folder: Path, new_database: Callable[[], str]) -> None:
    away = folder / "nobody listens here"
    with running_server(folder / "away", new_database(), key_request_socket=away) as server:
        known = server.enroll(server.management(), "known")
        with httpx.Client(base_url=server.agent_url, verify=server.tls, timeout=PATIENCE) as client:
            strangers = [client.post("/login", json={"uuid": str(number), "key": KEY}) for number in range(1000, 1201)]
            assert {answer.status_code for answer in strangers} == {503}
            mistaken = client.post("/login", json={"uuid": str(known), "key": KEY[::-1]})
            assert mistaken.json()["message"] == "Invalid key"
            answer = client.post("/login", json={"uuid": str(known), "key": KEY})
        assert answer.status_code == 200, answer.text


def test_a_program_that_cannot_run_stops_the_start_with_its_setting(
    folder: Path, new_database: Callable[[], str], capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = running_server(folder / "wrong", new_database(), key_request_program="/nowhere/at/all")
    with pytest.raises(CommsError, match="key_request_program: "):
        wrong.__enter__()
    assert "Traceback" not in capfd.readouterr().err
