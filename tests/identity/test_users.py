"""Users' tokens: short-lived, refreshable once, revoked by a logout, a new password or role; and lockouts."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from support.guesses import guess_at_once
from support.server import PASSWORD, Server
from support.waiting import PATIENCE, wait_until


def authenticate(server: Server, name: str, password: str = PASSWORD) -> httpx.Response:
    with httpx.Client(base_url=server.management_url, verify=server.tls, timeout=PATIENCE) as client:
        return client.post("/security/user/authenticate", auth=(name, password))


def wait_until_refused(client: httpx.Client, path: str = "/commands") -> None:
    wait_until(lambda: client.get(path).status_code == 401)


def refresh(client: httpx.Client, refresh_token: str) -> httpx.Response:
    return client.post("/security/user/refresh", json={"refresh_token": refresh_token})


def test_a_refresh_token_is_valid_once(server: Server, management: httpx.Client) -> None:
    server.user(management, "fresh", "reader")
    pair = authenticate(server, "fresh").json()["data"]
    assert pair["expires_in"] == 900
    client = server.client(server.management_url)
    answer = refresh(client, pair["refresh_token"])
    assert answer.headers["cache-control"] == "no-store"
    for _ in range(3):
        pair = answer.json()["data"]
        answer = refresh(client, pair["refresh_token"])
    client.headers["Authorization"] = f"Bearer {answer.json()['data']['token']}"
    assert client.get("/commands").status_code == 200


def test_a_refresh_token_that_is_used_again_ends_its_family_and_no_other(
    server: Server, management: httpx.Client
) -> None:
    server.user(management, "robbed", "reader")
    client = server.client(server.management_url)
    first, other = (authenticate(server, "robbed").json()["data"]["refresh_token"] for _ in range(2))
    second = refresh(client, first).json()["data"]
    assert refresh(client, first).status_code == 401
    assert refresh(client, second["refresh_token"]).status_code == 401
    client.headers["Authorization"] = f"Bearer {second['token']}"
    wait_until_refused(client)
    assert refresh(client, other).status_code == 200
    [entry] = management.get("/audit", params={"subject": "refresh_tokens", "key": "robbed"}).json()["items"]
    assert (entry["actor"], entry["address"], entry["operation"]) == ("a refresh token", "127.0.0.1", "update")
    assert "token_hash" not in str(entry)


def test_one_of_several_simultaneous_refreshes_with_a_token_succeeds_and_its_family_ends(
    server: Server, management: httpx.Client
) -> None:
    server.user(management, "hasty", "reader")
    token = authenticate(server, "hasty").json()["data"]["refresh_token"]
    client = server.client(server.management_url)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: refresh(client, token), range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 7
    [winner] = [answer.json()["data"]["refresh_token"] for answer in answers if answer.status_code == 200]
    assert refresh(client, winner).status_code == 401


@pytest.mark.parametrize("token", ["", ".", "a", "0" * 32 + ".x", "é" * 40, "0" * 32])
def test_an_invalid_refresh_token_is_refused(server: Server, token: str) -> None:
    assert refresh(server.client(server.management_url), token).status_code == 401


def test_logging_out_ends_every_token(server: Server, management: httpx.Client) -> None:
    leaving = server.user(management, "leaving", "reader")
    refresh_token = authenticate(server, "leaving").json()["data"]["refresh_token"]
    assert leaving.delete("/security/user/authenticate").status_code == 204
    wait_until_refused(leaving)
    answer = leaving.post("/security/user/refresh", json={"refresh_token": refresh_token})
    assert answer.status_code == 401


def test_a_new_role_or_password_ends_the_tokens_and_holds_at_the_next_login(
    server: Server, management: httpx.Client
) -> None:
    user = server.user(management, "moved", "operator")
    assert management.patch("/users/moved", json={"role": "reader"}).status_code == 204
    wait_until_refused(user)
    user = server.management("moved")
    assert user.post("/groups", json={"name": "x"}).status_code == 403
    change = {"old": "wrong", "new": "another long password"}
    assert user.put("/users/me/password", json=change).status_code == 401
    assert user.put("/users/me/password", json=change | {"old": PASSWORD}).status_code == 204
    wait_until_refused(user)
    assert authenticate(server, "moved").status_code == 401
    assert authenticate(server, "moved", "another long password").status_code == 200


@pytest.mark.parametrize("body", [{}, {"role": "king"}, {"password": "short"}, {"name": "x"}])
def test_an_invalid_change_of_a_user_is_refused(management: httpx.Client, body: dict[str, str]) -> None:
    assert management.patch("/users/admin", json=body).status_code in {400, 422}


def from_address(server: Server, address: str, name: str, password: str) -> httpx.Response:
    transport = httpx.HTTPTransport(verify=server.tls, local_address=address)
    with httpx.Client(base_url=server.management_url, transport=transport, timeout=PATIENCE) as client:
        return client.post("/security/user/authenticate", auth=(name, password))


def test_after_several_failures_the_right_password_must_wait_at_that_address_alone(
    server: Server, management: httpx.Client
) -> None:
    server.user(management, "locked", "reader")
    guess_at_once(lambda number: authenticate(server, "locked", f"wrong password {number}"))
    wait_until(lambda: locks_for(server, "locked") >= 8)
    assert authenticate(server, "locked").status_code == 429
    assert from_address(server, "127.0.0.2", "locked", PASSWORD).status_code == 200
    wait_until(lambda: authenticate(server, "locked").status_code == 200)


def locks_for(server: Server, name: str) -> int:
    """Return how many seconds a user is locked out after one more wrong password."""
    return int(authenticate(server, name, "wrong password").headers.get("Retry-After", "0"))


def test_failures_of_many_users_do_not_lock_their_address(server: Server, management: httpx.Client) -> None:
    server.user(management, "innocent", "reader")
    with ThreadPoolExecutor(8) as threads:
        answers = threads.map(lambda number: from_address(server, "127.0.0.3", f"user {number}", "wrong"), range(120))
        assert {answer.status_code for answer in answers} == {401}
    assert from_address(server, "127.0.0.3", "innocent", PASSWORD).status_code == 200
