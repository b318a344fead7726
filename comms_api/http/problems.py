"""Turn errors into HTTP answers: problem details (RFC 9457), plus the members that real agents read.

An error after the start of an answer can only be logged.
"""

import http
import logging
import math
import random
from collections.abc import Mapping
from typing import Any

import msgspec
from litestar import Response
from litestar.exceptions import HTTPException, LitestarException, NotFoundException, ValidationException

from comms_api import errors
from comms_api.database.failures import LateAnswer, Refusal, describe_outage, is_outage, log_failure, translate
from comms_api.http.request import CHALLENGE, AnyRequest, request_id
from comms_api.protocol import BATCH_SEQUENCE
from comms_api.text.faults import complete_fault
from comms_api.text.limited_log import LimitedLog

logger = logging.getLogger(__name__)
_refusals = LimitedLog(logger, logging.WARNING)
"""For 503, which a full node answers more than a hundred times a second."""

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = (1, 5)
"""The range of the random Retry-After, so that refused clients do not all return at the same time."""

PATH_CHARACTERS_SHOWN = 128

STATUSES: Mapping[type[errors.CommsError], int] = {
    errors.UnsupportedEncoding: 415,
    errors.Malformed: 400,
    errors.Invalid: 422,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.TooLarge: 413,
    errors.TooSlow: 408,
    errors.TooManyRequests: 429,
    errors.Unavailable: 503,
}


class Problem(msgspec.Struct, frozen=True):
    """The members of RFC 9457, and `message` and `code`, which real agents read."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    message: str
    code: int


def answer_problem(request: AnyRequest, error: Exception) -> Response[Problem]:
    """Return the answer to any exception of a route, and log the exceptions that an operator must see."""
    problem = describe_problem(request, error)
    headers = problem_headers(request, problem.status, error)
    return Response(problem, status_code=problem.status, media_type=MEDIA_TYPE, headers=headers)


def describe_problem(request: AnyRequest, error: Exception) -> Problem:
    """Return the problem that the client sees, and log the exceptions that an operator must see.

    The problem of a bug contains an instance id, under which it is logged, and no detail.
    """
    status, detail, code = _describe(request, error)
    instance = f"urn:uuid:{request_id(request.scope)}"
    _log(request, error, status, instance)
    return Problem(
        type="about:blank",
        title=http.HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=instance,
        message=detail,
        code=code,
    )


def log_cut_off(scope: Any, error: Exception) -> None:
    """Log why an answer ended early: one line for an outage during a stream, and a traceback for a bug."""
    log_failure(logger, f"the answer to {scope['method']} {scope['path']} was cut off", _cause_of(error))


def _cause_of(error: Exception) -> Exception:
    """Return the error of a stream, which Litestar wraps in its own and in groups of its tasks."""
    if isinstance(error, ExceptionGroup):
        return _cause_of(error.exceptions[0])
    if isinstance(error, LitestarException) and isinstance(error.__cause__, Exception):
        return _cause_of(error.__cause__)
    return error


def _describe(request: AnyRequest, error: Exception) -> tuple[int, str, int]:
    if isinstance(error, errors.CommsError):
        status = next((status for kind, status in STATUSES.items() if isinstance(error, kind)), 500)
        return status, error.detail, error.error_code
    if isinstance(error, HTTPException):
        return _describe_refusal(request, error)
    if isinstance(error, Refusal):
        return 400, f"A value cannot be stored: {error}", errors.Malformed.code
    if is_outage(error):
        fault = "took too long" if isinstance(translate(error), LateAnswer) else "cannot be reached"
        return 503, f"The database {fault}; try again later.", errors.Unavailable.code
    return 500, "Internal error; the operator can find it in the log by this instance id.", errors.CommsError.code


def _describe_refusal(request: AnyRequest, error: HTTPException) -> tuple[int, str, int]:
    """Return the status, the sentence and the code of one of Litestar's own refusals."""
    if isinstance(error, ValidationException):
        return 400, _validation_detail(request, error), errors.Malformed.code
    if isinstance(error, NotFoundException):
        return 404, _missing_path(request), errors.NotFound.code
    return error.status_code, error.detail, errors.CommsError.code


def _validation_detail(request: AnyRequest, error: ValidationException) -> str:
    """Return the fault of each parameter, or that the body is missing; the body's decoder describes other faults."""
    if not isinstance(error.extra, list):
        return error.detail
    parameters = request.scope["route_handler"].parsed_fn_signature.parameters
    forms = {name: parameter.annotation for name, parameter in parameters.items()}
    faults = [
        "The request body is empty."
        if fault.get("key") == "data"
        else f"{fault.get('key') or 'body'}: {complete_fault(fault['message'], forms.get(fault.get('key')))}"
        for fault in error.extra
    ]
    return "; ".join(faults) or error.detail


def _missing_path(request: AnyRequest) -> str:
    config = request.app.openapi_config
    title = config.title.removeprefix("comms-api: ") if config else "console"
    return f"The {title} has no path {request.url.path[:PATH_CHARACTERS_SHOWN]!r}; its paths are in docs/protocol.md."


def problem_headers(request: AnyRequest, status: int, error: Exception) -> dict[str, str]:
    """Return the headers of the answer to an exception."""
    if isinstance(error, HTTPException) and error.headers:
        return {**error.headers}
    if isinstance(error, errors.Outdated):
        return {BATCH_SEQUENCE: str(error.latest)}
    if status == http.HTTPStatus.UNAUTHORIZED:
        return {"WWW-Authenticate": request.scope.get("state", {}).get(CHALLENGE, "Bearer")}
    if status in {http.HTTPStatus.TOO_MANY_REQUESTS, http.HTTPStatus.SERVICE_UNAVAILABLE}:
        if isinstance(error, errors.CommsError) and error.retry_after_seconds is not None:
            return {"Retry-After": str(math.ceil(error.retry_after_seconds))}
        return {"Retry-After": str(random.randint(*RETRY_AFTER_SECONDS))}  # noqa: S311 - spreading, no secret
    return {}


def _log(request: AnyRequest, error: Exception, status: int, instance: str) -> None:
    where = f"{request.method} {request.url.path}"
    if status == http.HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error("%s failed, %s", where, instance, exc_info=error)
    elif status == http.HTTPStatus.SERVICE_UNAVAILABLE:
        _refusals.write(f"{where} answered 503: {describe_outage(error)}")
    else:
        logger.debug("%s answered %d: %s", where, status, error)
