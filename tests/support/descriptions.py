"""The reference that is generated from code: both OpenAPI descriptions, routes, errors, commands and settings.

`PYTHONPATH=tests python -m support.descriptions` starts a node, asks it, and writes the files.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from comms_api.errors import Outdated
from comms_api.http.problems import STATUSES
from comms_api.protocol import IDENTITY_IN_USE, KEY_REUSED
from support.reference import describe_commands, describe_settings
from support.server import Server, running_server

CODES = {
    2704: "400: the request names no file",
    2705: "404: none of the agent's groups has such a file",
    2707: "401: the token has expired; log in again",
    Outdated.code: "409: a batch with a higher number has been applied",
    KEY_REUSED: "422: the idempotency key was used for another body",
    IDENTITY_IN_USE: "403: two machines use one identity; take a new one and enroll again",
}
"""The codes that only one answer has."""

FOLDER = Path(__file__).parents[2] / "docs" / "reference"


def describe_server(server: Server) -> dict[str, str]:
    """Return the texts of the generated reference, by the names of their files."""
    apis = describe_apis(server)
    return {
        "routes.md": "\n".join(_routes({name: json.loads(text) for name, text in apis.items()})) + "\n",
        "errors.md": "\n".join(_errors()) + "\n",
        "commands.md": "\n".join(describe_commands()) + "\n",
        "settings.md": "\n".join(describe_settings()) + "\n",
        **{f"openapi/{name}": text for name, text in apis.items()},
    }


ROUTES_HEAD = """# Routes

Every route of both APIs, with the first paragraph of its description. The [protocol](../protocol.md) explains the
important ones; the OpenAPI files have bodies, answers and examples."""

ERRORS_HEAD = """# Errors

An error is `application/problem+json` (RFC 9457). Programs can rely on `status` and `code`; `detail` is a sentence for
people, and more exact than the sentence here. A bug is 500 with code 1000. The answers 429 and 503 have `Retry-After`.

| status | code | error | sentence |
|---|---|---|---|"""


def _routes(apis: dict[str, Any]) -> Iterator[str]:
    yield ROUTES_HEAD
    for name, api in apis.items():
        title = api["info"]["title"].removeprefix("comms-api: ")
        yield f"\n## The {title}\n\nFor programs: [{name}](openapi/{name})."
        for group in api["tags"]:
            yield f"\n### {title.removesuffix(' API').capitalize()}: {group['name']}\n\n{group['description']}"
            yield "\n| call | description |\n|---|---|"
            yield from _rows(api["paths"], group["name"])


def _rows(paths: dict[str, Any], group: str) -> Iterator[str]:
    for path, methods in sorted(paths.items()):
        for method, operation in sorted(methods.items()):
            if group in operation["tags"]:
                words = operation["description"].partition("\n\n")[0].replace("\n", " ").replace("|", "\\|")
                yield f"| `{method.upper()} {path}` | {words} |"


def _errors() -> Iterator[str]:
    yield ERRORS_HEAD
    for kind in sorted(STATUSES, key=lambda one: (STATUSES[one], one.code)):
        yield f"| {STATUSES[kind]} | {kind.code} | {kind.__name__} | {(kind.__doc__ or '').partition(chr(10))[0]} |"
    yield "\n## Codes of single answers\n\n| code | meaning |\n|---|---|"
    for code, words in CODES.items():
        yield f"| {code} | {words} |"


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
            descriptions = describe_server(server)
    for name, text in descriptions.items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    _write()
