"""The OpenAPI descriptions of both APIs are complete, and the reference that is generated from code is current."""

import difflib
import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from support.descriptions import FOLDER, describe_server
from support.server import Server

from comms_api.http.description.examples import PLACEHOLDER

ROOT = FOLDER.parents[1]
every_api = pytest.mark.parametrize("name", ["openapi/agents.json", "openapi/management.json"])


@pytest.fixture(scope="module")
def texts(server: Server) -> dict[str, str]:
    return describe_server(server)


@pytest.fixture
def description(texts: dict[str, str], name: str) -> Any:
    return json.loads(texts[name])


FILES = ["openapi/agents.json", "openapi/management.json", "routes.md", "errors.md", "commands.md", "settings.md"]


@pytest.mark.parametrize("name", FILES)
def test_the_committed_copy_is_current(texts: dict[str, str], name: str) -> None:
    file = FOLDER / name
    committed = file.read_text() if file.exists() else ""
    changes = list(difflib.unified_diff(committed.splitlines(), texts[name].splitlines(), "committed", "served", n=2))
    shown = "\n".join(changes[:40])
    assert not changes, f"{file.name} is not what the server answers; run `make reference` and commit it:\n{shown}"


def operations(description: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


@every_api
def test_every_operation_has_a_summary_a_description_and_a_group(description: Any) -> None:
    groups = {group["name"] for group in description["tags"] if group["description"]}
    for where, operation in operations(description):
        assert operation["summary"], where
        assert operation["description"], where
        assert set(operation["tags"]) <= groups, where


@every_api
def test_every_parameter_is_described(description: Any) -> None:
    for where, operation in operations(description):
        for parameter in operation.get("parameters", ()):
            assert parameter["description"], f"{where}: describe {parameter['name']} in http/description/parameters.py"


@every_api
def test_every_operation_that_changes_something_describes_its_body_or_has_none(description: Any) -> None:
    without = {where for where, operation in operations(description) if "requestBody" not in operation}
    verbs = ("cancel", "drain", "forget", "pause", "promote", "push", "rebalance", "resend", "resume", "secret", "test")
    others = {"POST /security/user/authenticate", "PUT /groups/{name}/agents/{agent}"}
    undescribed = {where for where in without if where.startswith(("POST", "PUT", "PATCH")) and where not in others}
    assert [where for where in sorted(undescribed) if not where.endswith(verbs)] == []


def contents(description: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for where, operation in operations(description):
        yield f"{where}: body", operation.get("requestBody", {})
        for status, answer in operation["responses"].items():
            yield f"{where}: {status}", answer
    for status, answer in description["components"]["responses"].items():
        yield status, answer


def texts_in(example: Any) -> Iterator[str]:
    """Yield the texts in an example."""
    if isinstance(example, dict | list):
        for one in example.values() if isinstance(example, dict) else example:
            yield from texts_in(one)
    else:
        yield str(example)


@every_api
def test_every_body_and_answer_has_an_example_that_its_schema_accepts(description: Any) -> None:
    schemas = description["components"]["schemas"]
    for where, message in contents(description):
        for media_type, media in message.get("content", {}).items():
            assert "example" in media, where
            if "json" in media_type and not isinstance(media["example"], str):
                assert PLACEHOLDER not in texts_in(media["example"]), f"{where}: a text has no sample"
                checked = jsonschema_rs.validator_for({**media["schema"], "components": {"schemas": schemas}})
                assert [
                    f"{error.instance_path}: {error.message}" for error in checked.iter_errors(media["example"])
                ] == [], where


@every_api
def test_every_operation_names_its_refusals_and_its_credentials(description: Any) -> None:
    for where, operation in operations(description):
        assert {"400", "429", "503"} <= set(operation["responses"]), where
    public = {where for where, operation in operations(description) if not operation.get("security")}
    logins = {"POST /authentication", "POST /login", "POST /security/user/refresh"}
    health = {"GET /", "GET /ready", "GET /health/live", "GET /health/ready", "GET /.well-known/jwks.json"}
    assert public <= logins | health


def test_every_code_of_an_error_is_documented() -> None:
    source = "".join(path.read_text() for path in (ROOT / "comms_api").rglob("*.py"))
    codes = set(re.findall(r"\b(?:code|KEY_REUSED|IDENTITY_IN_USE) ?= ?(27\d\d|1000)\b", source))
    page = (FOLDER / "errors.md").read_text()
    assert [code for code in sorted(codes) if f"| {code} |" not in page and code != "1000"] == []
