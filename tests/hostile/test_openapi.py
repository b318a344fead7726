"""Requests that match the OpenAPI descriptions, and many that do not, are never answered with 500."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode, checks
from schemathesis.core.failures import FailureGroup
from support.server import Server, running_server
from support.waiting import PATIENCE

DETERMINED = settings(
    max_examples=5, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
NOT_SENT = 0

schemathesis.serializer.alias("application/x-ndjson", "text/plain")


@pytest.fixture(scope="module")
def server(folder: Path, database_url: str) -> Iterator[Server]:
    """A node that answers polls quickly."""
    with running_server(folder, database_url, poll_wait_seconds=0.05) as running:
        yield running


class Probe:
    """Sends requests with one token, and keeps the outcomes."""

    def __init__(self, client: httpx.Client, server: Server) -> None:
        self.statuses = Counter[int]()
        self.faults: list[str] = []
        self._url = str(client.base_url)
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers["Authorization"] = client.headers["Authorization"]
        self._ca = str(server.folder / "certs" / "ca.pem")

    def send(self, case: Case) -> None:
        status = self._status(case)
        self.statuses[status] += 1
        if status >= 500:
            self.faults.append(f"{status}: {case.as_curl_command()}")

    def _status(self, case: Case) -> int:
        try:
            answer = case.call(base_url=self._url, session=self._session, verify=self._ca, timeout=PATIENCE)
        except (requests.exceptions.InvalidHeader, UnicodeEncodeError):
            return NOT_SENT  # no client can send this
        try:
            case.validate_response(answer, checks=CHECKS)
        except FailureGroup as failures:
            self.faults += [f"{case.method} {case.path} {answer.status_code}: {one}" for one in failures.exceptions]
        return answer.status_code


def run_cases(operation: Any, mode: GenerationMode, send: Callable[[Case], None]) -> None:
    """Send some requests of an operation, valid or invalid by its description."""

    @DETERMINED
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Case) -> None:
        send(case)

    with suppress(Unsatisfiable):  # no request for this operation can be invalid
        run()


@pytest.mark.parametrize("api", ["management", "agent"])
def test_no_request_to_an_api_is_a_500(server: Server, api: str) -> None:
    administrator = server.management()
    client = administrator if api == "management" else server.log_in(server.enroll(administrator, "probed"))
    description = client.get("/schema/openapi.json").json()
    del description["components"]["securitySchemes"]  # otherwise most requests have an invalid token
    operations = [result.ok() for result in schemathesis.openapi.from_dict(description).get_all_operations()]
    probe = Probe(client, server)
    for operation in sorted(operations, key=lambda one: one.path.startswith("/security")):  # the logout comes last
        for mode in MODES:
            run_cases(operation, mode, probe.send)
    print(f"{api}: {len(operations)} operations, {dict(probe.statuses)}")
    assert probe.faults == []
    assert probe.statuses[401] < probe.statuses.total() / 5  # the token was valid
