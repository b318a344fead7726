"""Authentication of agents: keys, blocks, source addresses, enrollment by token, re-enrollment, storms of logins."""

import asyncio
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.databases import querying
from support.server import KEY, PASSWORD, Server, new_id, running_server
from support.waiting import PATIENCE, wait_until

from comms_api.agents.deletion import STATES_PER_STEP

OTHER_KEY = "vutsrqponmlkjihgfedcba9876543210"


def log_in(server: Server, agent_id: object, key: str = KEY, **headers: str) -> httpx.Response:
    with httpx.Client(base_url=server.agent_url, verify=server.tls, timeout=PATIENCE) as client:
        return client.post("/login", json={"uuid": str(agent_id), "key": key}, headers=headers)


def wait_until_refused(client: httpx.Client) -> None:
    """Wait until a client's token is refused."""
    wait_until(lambda: client.get("/commands?wait=0").status_code == 401)


def test_a_blocked_agent_is_refused_at_once_but_not_with_a_final_answer(
    server: Server, management: httpx.Client
) -> None:
    agent_id = server.enroll(management, "blocked")
    client = server.log_in(agent_id)
    assert management.patch(f"/agents/{agent_id}", json={"is_blocked": True}).json()["is_blocked"] is True
    wait_until_refused(client)
    refused = log_in(server, agent_id)
    assert (refused.status_code, refused.json()["message"]) == (403, "The agent is blocked.")
    management.patch(f"/agents/{agent_id}", json={"is_blocked": False})
    assert log_in(server, agent_id).status_code == 200


def test_a_new_key_ends_the_tokens_and_the_old_key(server: Server, management: httpx.Client) -> None:
    agent_id = server.enroll(management, "rotated")
    client = server.log_in(agent_id)
    made = management.post(f"/agents/{agent_id}/key", json={}).json()
    wait_until_refused(client)
    assert log_in(server, agent_id).json()["message"] == "Invalid key"
    assert log_in(server, agent_id, made["key"]).status_code == 200
    assert management.post(f"/agents/{agent_id}/key", json={"key": "k" * 32}).status_code == 422
    assert management.post(f"/agents/{new_id()}/key", json={}).status_code == 404


@pytest.mark.parametrize("key", ["short", "k" * 32, "abababababababababababababababab", "é" * 32, "0123456789" * 13])
def test_a_key_that_could_be_guessed_is_refused(management: httpx.Client, key: str) -> None:
    assert management.post("/agents", json={"name": "weak", "key": key}).status_code == 422


def test_an_agent_may_only_come_from_its_addresses(server: Server, management: httpx.Client) -> None:
    agent_id = server.enroll(management, "bound")
    url = f"/agents/{agent_id}"
    client = server.log_in(agent_id)
    changed = management.patch(url, json={"allowed_addresses": ["10.0.0.0/8", "2001:db8::1"]}).json()
    assert changed["allowed_addresses"] == ["10.0.0.0/8", "2001:db8::1/128"]
    wait_until_refused(client)
    assert log_in(server, agent_id).status_code == 403
    management.patch(url, json={"allowed_addresses": ["127.0.0.0/8"]})
    assert server.log_in(agent_id).get("/commands?wait=0").status_code == 200
    assert management.patch(url, json={"allowed_addresses": ["10.0.0.300"]}).status_code == 422
    assert management.patch(url, json={"allowed_addresses": ["any"]}).json()["allowed_addresses"] == []


def test_only_a_trusted_proxy_names_the_client(
    folder: Path, new_database: Callable[[], str], server: Server, management: httpx.Client
) -> None:
    agent_id = server.enroll(management, "direct")
    management.patch(f"/agents/{agent_id}", json={"allowed_addresses": ["10.0.0.0/8"]})
    assert log_in(server, agent_id, **{"X-Forwarded-For": "10.1.2.3"}).status_code == 403
    with running_server(folder / "proxied", new_database(), trusted_proxies="127.0.0.0/8, 192.0.2.0/24") as proxied:
        operator = proxied.management()
        agent_id = proxied.enroll(operator, "behind")
        operator.patch(f"/agents/{agent_id}", json={"allowed_addresses": ["10.0.0.0/8"]})
        assert log_in(proxied, agent_id, **{"X-Forwarded-For": "6.6.6.6, 10.1.2.3, 192.0.2.7"}).status_code == 200
        for claim in ("10.1.2.3, 6.6.6.6", "6.6.6.6, 192.0.2.7", "nonsense", "10.1.2.3, nonsense"):
            assert log_in(proxied, agent_id, **{"X-Forwarded-For": claim}).status_code == 403, claim
        token = log_in(proxied, agent_id, **{"X-Forwarded-For": "10.1.2.3"}).json()["token"]
        client = proxied.client(proxied.agent_url, token)
        assert client.get("/commands?wait=0").status_code == 403
        assert client.get("/commands?wait=0", headers={"X-Forwarded-For": "10.9.9.9"}).status_code == 200


def test_a_token_enrolls_a_limited_number_of_agents_into_its_groups(server: Server, management: httpx.Client) -> None:
    management.post("/groups", json={"name": "tokened"})
    body = {"groups": ["tokened"], "uses": 2, "expires_in": 60, "description": "rack 7"}
    made = management.post("/enrollment-tokens", json=body).json()
    client = server.client(server.agent_url, made["token"])
    answers = [client.post("/enroll", json={"id": str(new_id()), "name": f"t{number}", "key": KEY, "groups": ["x"]})
               for number in range(3)]  # fmt: skip
    assert [answer.status_code for answer in answers] == [201, 201, 401]
    members = management.get("/agents?group=tokened").json()["items"]
    assert sorted(agent["name"] for agent in members) == ["t0", "t1"]
    assert log_in(server, members[0]["id"]).status_code == 200
    [listed] = management.get("/enrollment-tokens").json()["items"]
    assert (listed["uses_left"], listed["description"], "token" in listed) == (0, "rack 7", False)


def test_an_expired_or_revoked_token_enrolls_no_agent_and_a_failed_use_does_not_count(
    server: Server, management: httpx.Client
) -> None:
    def token(**members: Any) -> dict[str, str]:
        made: dict[str, str] = management.post("/enrollment-tokens", json={"expires_in": 60} | members).json()
        return made

    def enroll(made: dict[str, str], name: str) -> int:
        client = server.client(server.agent_url, made["token"])
        return client.post("/enroll", json={"id": str(new_id()), "name": name, "key": KEY}).status_code

    expired = token(expires_in=0.01)
    time.sleep(0.05)
    assert enroll(expired, "late") == 401
    revoked = token()
    assert management.delete(f"/enrollment-tokens/{revoked['id']}").status_code == 204
    assert enroll(revoked, "revoked") == 401
    once = token(uses=1)
    assert [enroll(once, name) for name in ("taken", "taken", "free")] == [201, 401, 401]
    again = token(uses=1)
    assert [enroll(again, name) for name in ("taken", "free")] == [409, 201]
    assert management.post("/enrollment-tokens", json={"expires_in": 60, "groups": ["none"]}).status_code == 404


def test_an_enrollment_whose_answer_was_lost_is_answered_again(server: Server, management: httpx.Client) -> None:
    made = management.post("/enrollment-tokens", json={"expires_in": 60, "uses": 1}).json()
    client = server.client(server.agent_url, made["token"])
    body = {"id": str(new_id()), "name": "lost answer", "key": KEY}
    assert [client.post("/enroll", json=body).status_code for _ in range(2)] == [201, 201]
    assert client.post("/enroll", json=body | {"key": OTHER_KEY}).status_code == 401


def test_enrolling_again_changes_nothing_and_another_key_is_refused(server: Server, management: httpx.Client) -> None:
    agent_id = server.enroll(management, "twice")
    body = {"id": str(agent_id), "name": "twice", "key": KEY}
    assert management.post("/agents", json=body).status_code == 201
    assert management.post("/agents", json=body | {"key": OTHER_KEY}).status_code == 409
    assert management.post("/agents", json=body | {"id": str(new_id())}).status_code == 409


def test_without_a_key_the_server_makes_one_and_shows_it_once(server: Server, management: httpx.Client) -> None:
    token = management.post("/enrollment-tokens", json={"expires_in": 60}).json()["token"]
    by_token = server.client(server.agent_url, token).post("/enroll", json={"name": "keyless by token"})
    for answer in (management.post("/agents", json={"name": "keyless"}), by_token):
        made = answer.json()
        assert (answer.status_code, len(made["key"]), answer.headers["cache-control"]) == (201, 32, "no-store")
        assert log_in(server, made["id"], made["key"]).status_code == 200
        assert made["key"] not in management.get(f"/agents/{made['id']}").text
        assert management.post("/agents", json={"name": made["name"]}).status_code == 409
    chosen = management.post("/agents", json={"name": "with a key", "key": KEY}).json()
    assert set(chosen) == {"id", "name"}


def test_an_agent_that_was_silent_long_enough_may_be_replaced(folder: Path, new_database: Callable[[], str]) -> None:
    url = new_database()
    with running_server(folder / "replacing", url, reenroll_after_days=1) as server:
        management = server.management()
        old = server.enroll(management, "host-7")
        client = server.log_in(old)
        body = {"id": str(new_id()), "name": "host-7", "key": OTHER_KEY}
        assert management.post("/agents", json=body).status_code == 409
        earlier = "now() - interval '2 days'"

        def is_replaced() -> bool:
            """Let the agent be silent, although the node may note its login later, and enroll its successor."""
            querying(url)(f"UPDATE agents SET created_at = {earlier}, last_seen_at = {earlier}")
            return management.post("/agents", json=body).status_code == 201

        wait_until(is_replaced)
        wait_until_refused(client)
        [agent] = management.get("/agents?name=host-7").json()["items"]
        assert agent["id"] != str(old)
        assert log_in(server, agent["id"], OTHER_KEY).status_code == 200
        assert log_in(server, agent["id"], KEY).status_code == 401


def test_a_correct_key_is_accepted_after_any_number_of_failures(server: Server, management: httpx.Client) -> None:
    agent_id = server.enroll(management, "guessed")
    assert [log_in(server, agent_id, OTHER_KEY).status_code for _ in range(6)] == [401] * 6
    wait_until(lambda: "Retry-After" in log_in(server, agent_id, OTHER_KEY).headers)
    assert log_in(server, agent_id).status_code == 200


def test_deleted_agents_behind_one_address_do_not_lock_out_others(server: Server, management: httpx.Client) -> None:
    deleted = [server.enroll(management, f"deleted {number}") for number in range(45)]
    healthy = server.enroll(management, "healthy")
    for agent_id in deleted:
        management.delete(f"/agents/{agent_id}")
    with server.client(server.agent_url) as client:
        for agent_id in deleted * 8:
            refused = client.post("/login", json={"uuid": str(agent_id), "key": KEY})
            assert (refused.status_code, refused.json()["message"]) == (403, "Agent does not exist")
    assert log_in(server, healthy).status_code == 200


@pytest.mark.parametrize(("uses", "status"), [(0, 400), (1, 201), (2**31 - 1, 201), (2**31, 400)])
def test_an_enrollment_token_has_a_bounded_number_of_uses(management: httpx.Client, uses: int, status: int) -> None:
    answer = management.post("/enrollment-tokens", json={"expires_in": 60, "uses": uses})
    assert answer.status_code == status
    assert status == 201 or answer.json()["detail"].startswith("uses: ")


def test_wrong_enrollment_tokens_do_not_keep_a_right_one_out(server: Server, management: httpx.Client) -> None:
    made = management.post("/enrollment-tokens", json={"expires_in": 3_600}).json()
    body = {"id": str(new_id()), "name": "after many wrong tokens", "key": KEY}
    wrong = server.client(server.agent_url, "wrong")
    assert {wrong.post("/enroll", json=body).status_code for _ in range(25)} == {401}
    assert server.client(server.agent_url, made["token"]).post("/enroll", json=body).status_code == 201


def test_a_storm_of_logins_queues_and_does_not_overload_the_node(folder: Path, new_database: Callable[[], str]) -> None:
    with running_server(folder / "storm", new_database(), logins_waiting_maximum=40) as server:
        agent_id = server.enroll(server.management(), "storm")
        body = b'{"uuid":"%b","key":"%b"}' % (str(agent_id).encode(), KEY.encode())
        head = b"POST /login HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)

        async def one(tls: ssl.SSLContext) -> bytes:
            reader, writer = await asyncio.open_connection("localhost", server.agent_port, ssl=tls)
            writer.write(head + body)
            answer = await reader.read()
            writer.transport.abort()  # a close would still be in progress when the loop ends
            return answer

        async def storm() -> list[bytes]:
            tls = server.tls
            return await asyncio.gather(*(one(tls) for _ in range(400)))

        answers = asyncio.run(asyncio.wait_for(storm(), PATIENCE))
        statuses = {answer[9:12] for answer in answers}
        assert b"200" in statuses <= {b"200", b"503"}
        assert all(b"retry-after" in answer.lower() for answer in answers if answer[9:12] == b"503")
        assert log_in(server, agent_id).status_code == 200


def test_the_secret_is_replaced_without_a_new_key_for_anyone(folder: Path, new_database: Callable[[], str]) -> None:
    url, home = new_database(), folder / "peppered"
    with running_server(home, url) as server:
        agent_id = server.enroll(server.management(), "peppered")
        token = server.token(agent_id)
    old = (home / "data" / "secret").rename(home / "old")
    with running_server(home, url, previous_secret_file=old) as server:
        assert server.client(server.agent_url, token).get("/commands?wait=0").status_code == 200
        assert log_in(server, agent_id).status_code == 200
    with running_server(home, url) as server:  # the login has hashed the key again
        assert log_in(server, agent_id).status_code == 200
        assert server.client(server.agent_url, token).get("/commands?wait=0").status_code == 200


def test_another_algorithm_keeps_tokens_valid_and_every_key_is_published(
    folder: Path, new_database: Callable[[], str]
) -> None:
    url, home = new_database(), folder / "rotating"
    tokens = []
    algorithms = ["ES256", "EdDSA", "RS256"]
    for number, algorithm in enumerate(algorithms):
        with running_server(home, url, token_algorithm=algorithm) as server:
            management = server.management()
            if not tokens:
                agent_id = server.enroll(management, "rotating")
            tokens.append(server.token(agent_id))
            for token in tokens:
                assert server.client(server.agent_url, token).get("/commands?wait=0").status_code == 200
            published = server.client(server.agent_url).get("/.well-known/jwks.json").json()["keys"]
            assert [key["alg"] for key in published] == algorithms[: number + 1]
            assert all("d" not in key for key in published)
    assert PASSWORD not in (home / "log").read_text()


def test_the_states_of_a_deleted_agent_go_with_it(
    server: Server, management: httpx.Client, query: Callable[..., list[Any]]
) -> None:
    agent_id, other_id = (server.enroll(management, f"stateful-{number}") for number in range(2))
    for owner, number in ((agent_id, STATES_PER_STEP + 1), (other_id, 1)):
        query(
            "INSERT INTO states (agent_id, module, collector, id, data)"
            " SELECT $1, 'm', '', number::text, '{}' FROM generate_series(1, $2::int) AS number",
            owner,
            number,
        )
    assert management.delete(f"/agents/{agent_id}").status_code == 204
    assert [row["agent_id"] for row in query("SELECT agent_id FROM states")] == [other_id]
    assert management.delete(f"/agents/{agent_id}").status_code == 404
