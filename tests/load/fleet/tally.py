"""Count the items that the server acknowledged to all workers' users, to compare the counts with the database."""

import json
from collections import Counter
from http import HTTPStatus
from pathlib import Path
from typing import Any

from locust import events
from locust.env import Environment
from locust.runners import WorkerRunner

_COUNTS: Counter[str] = Counter()


def count(**counts: int) -> None:
    """Add to the counts with these names."""
    _COUNTS.update(counts)


def count_sent(noun: str, size: int) -> None:
    """Count items that are about to be sent."""
    count(**{f"{noun}_sent": size})


def count_answer(noun: str, size: int, status: int) -> None:
    """Count sent items as acknowledged or refused; after a 5xx or a broken connection they count as neither."""
    if HTTPStatus.OK <= status < HTTPStatus.BAD_REQUEST:
        count(**{f"{noun}_acknowledged": size})
    elif HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
        count(**{f"{noun}_refused": size})


@events.report_to_master.add_listener
def _hand_over(client_id: str, data: dict[str, Any]) -> None:  # noqa: ARG001 - locust passes it by name
    data["tally"] = dict(_COUNTS)
    _COUNTS.clear()


@events.worker_report.add_listener
def _take_over(client_id: str, data: dict[str, Any]) -> None:  # noqa: ARG001 - locust passes it by name
    count(**data["tally"])


@events.quitting.add_listener
def _write(environment: Environment, **_: Any) -> None:
    path = environment.parsed_options.tally
    if path is not None and not isinstance(environment.runner, WorkerRunner):
        Path(path).write_text(json.dumps(_COUNTS, indent=2, sort_keys=True) + "\n")
