"""The quarantine keeps the newest lines and stays small, however many come between two rounds of housekeeping."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from support.batches import stateless
from support.databases import querying
from support.server import running_server

from comms_api.events.quarantine import TRIMMED_ROWS_MINIMUM

KEPT, BATCHES, LINES = 500, 40, 400


def test_a_flood_of_bad_lines_is_trimmed_while_it_comes(folder: Path, new_database: Callable[[], str]) -> None:
    url = new_database()
    with running_server(folder / "flood", url, quarantine_rows_maximum=KEPT) as server:
        agent_id = server.enroll(server.management(), "flood")
        client = server.log_in(agent_id)

        def send(number: int) -> int:
            batch = stateless(agent_id, *[b"no json %d" % number] * LINES)
            return client.post("/events/stateless", content=batch).status_code

        with ThreadPoolExecutor(4) as threads:
            assert set(threads.map(send, range(BATCHES))) == {204}
        assert send(BATCHES) == 204
    lines = [row[0] for row in querying(url)("SELECT line FROM quarantined_events ORDER BY id")]
    assert KEPT <= len(lines) < KEPT + TRIMMED_ROWS_MINIMUM
    assert lines[-LINES:] == [b"no json %d" % BATCHES] * LINES
