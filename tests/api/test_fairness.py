"""One agent that shouts does not take the node from the others."""

from collections.abc import Callable
from pathlib import Path

from support.batches import stateless
from support.raw import connect, request, send_parts
from support.server import running_server

BODY_BYTES = 2**20


def test_an_agent_that_fills_its_share_is_503_and_another_is_served(
    folder: Path, new_database: Callable[[], str]
) -> None:
    limits = {"body_bytes_maximum": BODY_BYTES, "bytes_in_flight_maximum": 4 * BODY_BYTES}
    with running_server(folder / "fairness", new_database(), **limits) as server:
        management = server.management()
        loud, quiet = (server.enroll(management, name) for name in ("loud", "quiet"))
        token = server.token(loud)
        more = request("POST", "/events/stateless", token, stateless(loud, b"{}"))
        with connect(server.tls, server.agent_port) as slow:
            slow.sendall(request("POST", "/events/stateless", token, b"", f"Content-Length: {BODY_BYTES}") + b"{")
            answers = (send_parts(server.tls, server.agent_port, [more]) for _ in range(100))
            answer = next(answer for answer in answers if answer.status != 204)  # once the server has seen the slow one
            assert (answer.status, b"of yours" in answer.body) == (503, True)
            assert int(answer.headers["retry-after"]) >= 1
            served = server.log_in(quiet).post("/events/stateless", content=stateless(quiet, b"{}"))
            assert served.status_code == 204
        again = server.log_in(loud).post("/events/stateless", content=stateless(loud, b"{}"))
        assert again.status_code == 204
