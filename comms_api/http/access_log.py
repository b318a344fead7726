"""Say in the log which request a line belongs to, and log one line for each request if `access_log` is set."""

import logging
from collections.abc import Mapping
from typing import Any

from comms_api.http.authentication import subject_of
from comms_api.http.request import client_address, is_head, request_id
from comms_api.spans import current_trace_id
from comms_api.text.json_log import FIELDS

logger = logging.getLogger(__name__)

TARGET_CHARACTERS_MAXIMUM = 512


def log_access(scope: Any, status: int | None, size: int, seconds: float) -> None:
    """Log who asked for what, and the answer: its status, the size of its body in bytes, and the time it took.

    No header and no body is logged, so keys, passwords and tokens are not either. `status` is None if the client
    disconnected before the answer began.
    """
    target, query = scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1")
    logger.info(
        '%s %s "%s %s" %s %d B %.1f ms',
        client_address(scope) or "-",
        subject_of(scope) or "-",
        "HEAD" if is_head(scope) else scope["method"],
        (f"{target}?{query}" if query else target)[:TARGET_CHARACTERS_MAXIMUM],
        status or "-",
        size,
        seconds * 1_000,
        extra={FIELDS: {"status": status, "bytes": size, "seconds": round(seconds, 6)}},
    )


def describe_request(scope: Any) -> Mapping[str, object]:
    """Return the members of a request for a log in JSON; `route` is its path with the names of parameters."""
    trace_id = current_trace_id()
    traced = {} if trace_id is None else {"trace": trace_id}
    return traced | {
        "request": str(request_id(scope)),
        "method": scope["method"],
        "route": scope.get("path_template", scope["path"])[:TARGET_CHARACTERS_MAXIMUM],
        "client": client_address(scope),
        "subject": subject_of(scope),
    }
