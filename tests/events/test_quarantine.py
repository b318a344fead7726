"""The quarantine keeps the newest lines and stays small, and no agent pushes out the lines of other agents."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from support.batches import stateless
from support.databases import querying
from support.server import running_server

from comms_api.events.quarantine import AGENT_SHARE, TRIMMED_ROWS_MINIMUM

KEPT, BATCHES, LINES = 500, 40, 400


def test_a_flood_of_bad_lines_is_trimmed_while_it_arrives(folder: Path, new_database: Callable[[], str]) -> None:
    url = new_database()
    with running_server(folder / "flood", url, quarantine_rows_maximum=KEPT) as server:
        management = server.management()
        loud, quiet = (server.enroll(management, name) for name in ("loud", "quiet"))
        client = server.log_in(loud)

        def send(number: int) -> int:
            batch = stateless(loud, *[b"no json %d" % number] * LINES)
            return client.post("/events/stateless", content=batch).status_code

        few = stateless(quiet, *[b"not json either"] * 20)
        assert server.log_in(quiet).post("/events/stateless", content=few).status_code == 204
        with ThreadPoolExecutor(4) as threads:
            assert set(threads.map(send, range(BATCHES))) == {204}
        assert send(BATCHES) == 204
    rows = querying(url)("SELECT agent_id, line FROM quarantined_events ORDER BY id")
    lines = [line for agent_id, line in rows if agent_id == loud]
    assert KEPT // AGENT_SHARE <= len(lines) < KEPT // AGENT_SHARE + TRIMMED_ROWS_MINIMUM
    assert set(lines[-KEPT // AGENT_SHARE :]) == {b"no json %d" % BATCHES}
    assert len(rows) - len(lines) == 20
