"""Users' tokens: short, refreshable once each, ended by a logout, a new password or a new role; and the lock."""

import time

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.server import PASSWORD, Server
from support.waiting import wait_until

from comms_api.errors import TooManyRequests
from comms_api.http.failures import LONGEST_SECONDS, FailureLimit


def authenticate(server: Server, name: str, password: str = PASSWORD) -> httpx.Response:
    with httpx.Client(base_url=server.management_url, verify=server.tls) as client:
        return client.post("/security/user/authenticate", auth=(name, password))


def is_refused_soon(client: httpx.Client, path: str = "/commands") -> bool:
    for _ in range(200):
        if client.get(path).status_code == 401:
            return True
        time.sleep(0.05)
    return False


def test_a_refresh_token_is_good_once(server: Server, management: httpx.Client) -> None:
    server.user(management, "fresh", "reader")
    pair = authenticate(server, "fresh").json()["data"]
    assert pair["expires_in"] == 900
    client = server.client(server.management_url)
    answer = client.post("/security/user/refresh", json={"refresh_token": pair["refresh_token"]})
    following = answer.json()["data"]
    assert client.post("/security/user/refresh", json={"refresh_token": pair["refresh_token"]}).status_code == 401
    client.headers["Authorization"] = f"Bearer {following['token']}"
    assert client.get("/commands").status_code == 200


def test_logging_out_ends_every_token(server: Server, management: httpx.Client) -> None:
    leaving = server.user(management, "leaving", "reader")
    refresh_token = authenticate(server, "leaving").json()["data"]["refresh_token"]
    assert leaving.delete("/security/user/authenticate").status_code == 204
    assert is_refused_soon(leaving)
    answer = leaving.post("/security/user/refresh", json={"refresh_token": refresh_token})
    assert answer.status_code == 401


def test_a_new_role_or_password_ends_the_tokens_and_holds_at_the_next_login(
    server: Server, management: httpx.Client
) -> None:
    user = server.user(management, "moved", "operator")
    assert management.patch("/users/moved", json={"role": "reader"}).status_code == 204
    assert is_refused_soon(user)
    user = server.management("moved")
    assert user.post("/groups", json={"name": "x"}).status_code == 403
    change = {"old": "wrong", "new": "another long password"}
    assert user.put("/users/me/password", json=change).status_code == 401
    assert user.put("/users/me/password", json=change | {"old": PASSWORD}).status_code == 204
    assert is_refused_soon(user)
    assert authenticate(server, "moved").status_code == 401
    assert authenticate(server, "moved", "another long password").status_code == 200


@pytest.mark.parametrize("body", [{}, {"role": "king"}, {"password": "short"}, {"name": "x"}])
def test_a_user_cannot_be_changed_to_nonsense(management: httpx.Client, body: dict[str, str]) -> None:
    assert management.patch("/users/admin", json=body).status_code in {400, 422}


def test_after_several_failures_even_the_right_password_must_wait(server: Server, management: httpx.Client) -> None:
    server.user(management, "locked", "reader")
    answers = [authenticate(server, "locked", "wrong password") for _ in range(7)]
    assert [answer.status_code for answer in answers[:6]] == [401] * 6
    refused = authenticate(server, "locked")
    assert (refused.status_code, int(refused.headers["Retry-After"]) >= 1) == (429, True)
    wait_until(lambda: authenticate(server, "locked").status_code == 200)


@given(failures=st.integers(1, 40))
def test_the_lock_doubles_up_to_its_bound_and_time_forgives(failures: int) -> None:
    now = 0.0
    limit = FailureLimit(5, 1.0, lambda: now)
    for _ in range(failures):
        limit.failed("somebody")
    if failures <= 5:
        limit.check("somebody")
    else:
        with pytest.raises(TooManyRequests) as told:
            limit.check("somebody")
        assert told.value.retry_after_seconds == min(LONGEST_SECONDS, 2.0 ** min(failures - 6, 16))
    limit.check("nobody")
    now = LONGEST_SECONDS * (failures + 1)
    limit.failed("somebody")
    limit.check("somebody")
    limit.succeeded("somebody")
    limit.check("somebody")
