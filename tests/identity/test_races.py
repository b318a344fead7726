"""Changes during a login apply to the token that it returns."""

import base64
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
from support.server import KEY, PASSWORD, Server, new_id
from support.waiting import PATIENCE, wait_until


def test_a_role_that_changes_while_logins_wait_leaves_no_token_of_the_old_role(
    server: Server, management: httpx.Client
) -> None:
    server.user(management, "demoted", "administrator")

    def log_in(_: int) -> str:
        with httpx.Client(base_url=server.management_url, verify=server.tls, timeout=PATIENCE) as client:
            answer = client.post("/security/user/authenticate", auth=("demoted", PASSWORD))
        token: str = answer.json()["data"]["token"] if answer.status_code == 200 else ""
        return token

    with ThreadPoolExecutor(20) as pool:
        tokens = [pool.submit(log_in, number) for number in range(20)]
        time.sleep(0.15)
        assert management.patch("/users/demoted", json={"role": "reader"}).status_code == 204
        issued = [token for token in (future.result() for future in tokens) if token]
    for client in [server.client(server.management_url, token) for token in issued]:
        wait_until(lambda client=client: client.get("/audit").status_code in {401, 403})


def test_a_contested_name_goes_to_one_of_many_agents(server: Server, management: httpx.Client) -> None:
    def enroll(_: int) -> int:
        with httpx.Client(base_url=server.management_url, verify=server.tls, timeout=PATIENCE) as client:
            body = {"id": str(new_id()), "name": "contested", "key": KEY}
            return client.post("/agents", json=body, headers=management.headers).status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(enroll, range(8)))
    assert sorted(statuses) == [201] + [409] * 7


def test_a_request_without_credentials_is_refused_before_its_body_is_read(server: Server) -> None:
    client = server.client(server.agent_url)
    assert client.post("/enroll", content=b"x" * 100_000).status_code == 401
    client.headers["Authorization"] = "Bearer " + base64.b64encode(b"nothing").decode()
    assert client.post("/enroll", content=b"x" * 100_000).status_code == 401
