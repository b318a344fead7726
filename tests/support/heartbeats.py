"""Wait for the numbers that nodes report in heartbeats."""

import httpx

from support.waiting import wait_until


def polls_held(management: httpx.Client) -> dict[str, int]:
    """Return the number of polls that each live node held at its last heartbeat."""
    held: dict[str, int] = {}
    for node in management.get("/nodes").json():
        if node["state"] != "lost":
            held[node["name"]] = held.get(node["name"], 0) + node["polls"]
    return held


def wait_for_polls(management: httpx.Client, count: int) -> None:
    """Wait until the nodes together hold this many polls."""
    wait_until(lambda: sum(polls_held(management).values()) == count)


def wait_for_heartbeats(management: httpx.Client, name: str, count: int) -> None:
    """Wait for this many further heartbeats of a node."""

    def seen_at() -> str:
        return next(str(node["seen_at"]) for node in management.get("/nodes").json() if node["name"] == name)

    for _ in range(count):
        before = seen_at()
        wait_until(lambda before=before: seen_at() != before)
