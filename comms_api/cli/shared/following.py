"""Follow a list: ask for the next items, which the server waits for, until Ctrl-C."""

import time
from collections.abc import Iterator

from comms_api.cli.shared.output import JsonObject, Notice
from comms_api.errors import Unavailable
from comms_api.management_client.client import ManagementClient

PAGE = 1_000
WAIT_SECONDS = 5
"""Each answer may say that something holds items back, so it comes soon."""

RETRY_SECONDS = 1.0


def follow_answers(api: ManagementClient, path: str, query: JsonObject, after: str | int) -> Iterator[JsonObject]:
    """Yield the answers after a position forever; wait while the server cannot be reached."""
    outage = Notice()
    while True:
        try:
            page = {"after": after, "wait": WAIT_SECONDS, "limit": PAGE}
            answer: JsonObject = api.ask("GET", path, params=query | page).json()
        except Unavailable as error:
            outage.show(f"the server does not answer now: {error}")
            time.sleep(RETRY_SECONDS)
            continue
        outage.show("")
        yield answer
        after = answer["next"]
