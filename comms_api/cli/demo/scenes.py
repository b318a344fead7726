"""The scenes of the demonstration: agents enroll and send, a file reaches them, and commands run."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from rich.markup import escape

from comms_api.cli.demo.fleet import ENROLLMENTS, GROUP, DemoAgent, DemoServer
from comms_api.cli.demo.view import LiveView
from comms_api.errors import CommsError
from comms_api.text.printable import escape_controls

PATIENCE_SECONDS = 60.0
SETTLED_SECONDS = 1.0
LINE_SHOWN = 80
"""The characters of a log line that are shown."""

FOUND_MAXIMUM = 100

_FLEET = {"type": "group", "id": GROUP}


def play(view: LiveView, server: DemoServer, agents: Sequence[DemoAgent]) -> None:
    """Play all scenes, and return when the agents are idle. Raises `CommsError` if that takes too long."""
    urls = server.process.agent_url, server.process.management_url
    view.add(f"the server listens: agent API {urls[0]}, management API {urls[1]}")
    begin = server.get("/events/tail")["next"]
    _enroll(view, server, agents)
    _distribute_file(view, server, agents)
    _wait_for("an answer to every event and state", lambda: all(agent.is_settled() for agent in agents))
    view.add("every event and every state is acknowledged; all agents hold a poll")
    _read_events(view, server, begin)
    _send_commands(view, server, agents)
    _wait_for("idle agents", lambda: _are_idle(agents))


def _enroll(view: LiveView, server: DemoServer, agents: Sequence[DemoAgent]) -> None:
    view.add(f"{len(agents)} agents enroll by {', '.join(ENROLLMENTS)}, log in and send what they collect here")
    _wait_for("all agents", lambda: len(server.get("/agents")["items"]) == len(agents))
    external = _find_id(server, agents[-1])
    server.client.put(f"/groups/{GROUP}/agents/{external}").raise_for_status()


def _distribute_file(view: LiveView, server: DemoServer, agents: Sequence[DemoAgent]) -> None:
    server.client.put(f"/groups/{GROUP}/files/{GROUP}.yml", content="demo: true").raise_for_status()
    _wait_for("the file on all agents", lambda: len(server.get("/agents?in_sync=true")["items"]) == len(agents))
    view.add(f"a file of the group [bold]{GROUP}[/] has reached every agent, as the hashes that they report show")


def _read_events(view: LiveView, server: DemoServer, begin: str) -> None:
    """Follow the events from a position to the newest one, and search for a word of the last one."""
    followed: list[dict[str, Any]] = []
    while items := (answer := server.get(f"/events/tail?limit=1000&after={begin}"))["items"]:
        followed, begin = followed + items, answer["next"]
    if not followed:
        raise CommsError("the follower has received no event")
    line = str(followed[-1]["event"]["event"]["original"])
    view.add(f"a follower has received {len(followed):,} events; the last one:")
    view.add(f"  {escape(escape_controls(line[:LINE_SHOWN]))}")
    word = max(re.findall(r"[A-Za-z0-9.-]+", line), key=len, default="")
    began = time.monotonic()
    found = server.get(f"/events?contains={quote(word)}&order=newest&limit={FOUND_MAXIMUM}")["items"]
    took = f"{1000 * (time.monotonic() - began):.0f} ms"
    more = "or more " if len(found) == FOUND_MAXIMUM else ""
    view.add(f"a search of all events for [bold]{escape(word)}[/] finds {len(found)} {more}in {took}")


def _send_commands(view: LiveView, server: DemoServer, agents: Sequence[DemoAgent]) -> None:
    request_id = server.submit("ping", _FLEET, {"rollout": {"max_in_flight": 1}})
    _follow(view, server, "ping, group", request_id, {"success": len(agents)})
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    request_id = server.submit("restart", _FLEET, {"start_at": tomorrow})
    server.post(f"/commands/{request_id}/cancel", None)
    _follow(view, server, "restart, group", request_id, {"cancelled": len(agents)})
    request_id = server.submit("refresh-inventory", {"type": "agent", "id": _find_id(server, agents[0])}, {})
    _follow(view, server, "refresh-inventory, one agent", request_id, {"success": 1})


def _follow(view: LiveView, server: DemoServer, label: str, request_id: str, expected: Mapping[str, int]) -> None:
    """Show the progress of a command until its orders have ended as expected."""

    def has_ended() -> bool:
        orders = server.get(f"/commands/{request_id}")["orders"]
        view.show_progress(label, orders)
        return all(orders[status] == count for status, count in expected.items())

    _wait_for(f"the end of {label}", has_ended)


def _find_id(server: DemoServer, agent: DemoAgent) -> str:
    agent_id: str = server.get(f"/agents?name={agent.name}")["items"][0]["id"]
    return agent_id


def _are_idle(agents: Sequence[DemoAgent]) -> bool:
    """Return whether the agents have nothing to send, and count nothing new for a second."""
    before = [agent.counts() for agent in agents]
    time.sleep(SETTLED_SECONDS)
    return before == [agent.counts() for agent in agents] and all(agent.is_settled() for agent in agents)


def _wait_for(event: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise CommsError(f"{event}: not seen within {PATIENCE_SECONDS:g} seconds")
        time.sleep(0.1)
