"""If a whole fleet enrolls at once, the server refuses the requests beyond its queue, and enrolls each agent once."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from support.server import KEY, new_id, running_server
from support.waiting import wait_until

AGENTS = 60


def test_a_storm_of_enrollments_queues_and_every_agent_is_enrolled_once(
    folder: Path, new_database: Callable[[], str]
) -> None:
    with running_server(folder / "storm", new_database(), enrollments_waiting_maximum=4) as server:
        management = server.management()
        token = management.post("/enrollment-tokens", json={"expires_in": 3_600}).json()["token"]
        answers = list[httpx.Response]()

        def enroll(number: int) -> None:
            body = {"id": str(new_id()), "name": f"agent-{number}", "key": KEY}
            with server.client(server.agent_url, token) as client:

                def is_enrolled() -> bool:
                    answers.append(client.post("/enroll", json=body))
                    return answers[-1].status_code == 201

                wait_until(is_enrolled)

        with ThreadPoolExecutor(AGENTS) as pool:
            list(pool.map(enroll, range(AGENTS)))
        listed = management.get(f"/agents?limit={2 * AGENTS}").json()["items"]
    assert Counter(agent["name"] for agent in listed) == Counter(f"agent-{number}" for number in range(AGENTS))
    refused = [answer for answer in answers if answer.status_code != 201]
    assert refused
    assert {answer.status_code for answer in refused} == {503}
    assert len({answer.headers["Retry-After"] for answer in refused}) > 1
