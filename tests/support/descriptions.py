"""The OpenAPI descriptions of both APIs, as a node answers them, and their committed copies.

`PYTHONPATH=tests python -m support.descriptions` starts a node and writes the copies.
"""

import json
import tempfile
from pathlib import Path

import httpx

from support.server import Server, running_server

FOLDER = Path(__file__).parents[2] / "docs" / "reference" / "openapi"


def describe_apis(server: Server) -> dict[str, str]:
    """Return the texts of both descriptions, sorted, by the names of their files."""
    management = server.management()
    agent = server.log_in(server.enroll(management, "described"))
    return {"agents.json": _ask(agent), "management.json": _ask(management)}


def _ask(client: httpx.Client) -> str:
    answer = client.get("/schema/openapi.json")
    assert answer.status_code == 200, answer.text
    return json.dumps(answer.json(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _write() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # the user of the embedded PostgreSQL enters it
        with running_server(Path(folder), None) as server:
            descriptions = describe_apis(server)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in descriptions.items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    _write()
