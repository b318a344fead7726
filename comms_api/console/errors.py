"""Answer errors with pages that say what to do."""

from http import HTTPStatus

from litestar import Response

from comms_api.console.faults import fault_of
from comms_api.console.rendering import HEADERS, is_partial, redirect, refuse, render
from comms_api.console.sessions import is_link_from_elsewhere, sign_in_url
from comms_api.http.problems import describe_problem, problem_headers
from comms_api.http.request import AnyRequest

ADVICE = {
    400: "Check the address or the form; the sentence above names the field.",
    403: "Ask an administrator for a role that may do this, or sign in as another user.",
    404: "It may have been deleted. Go back to the list and search for it.",
    409: "Reload the page to see the current state.",
    422: "Correct the value and try again.",
    429: "Wait a moment and try again.",
    503: "Something that the server needs does not answer. Reload the page in a few seconds.",
}
DEFAULT_ADVICE = "Reload the page. If it fails again, give the administrator of the server the id below."


def answer_error(request: AnyRequest, error: Exception) -> Response[bytes]:
    """Return the page for an exception of a route; without a session, this is the sign-in page."""
    problem = describe_problem(request, error)
    if problem.status == HTTPStatus.UNAUTHORIZED:
        return _ask_to_sign_in(request)
    headers = problem_headers(request, problem.status, error)
    if is_partial(request):
        return refuse(request, [fault_of(problem.detail)], status=problem.status, headers=headers)
    return render(
        request,
        "error.html",
        status=problem.status,
        headers=headers,
        message=problem.detail,
        title=problem.title,
        advice=ADVICE.get(problem.status, DEFAULT_ADVICE),
        instance=problem.instance,
        code=problem.status,
    )


def _ask_to_sign_in(request: AnyRequest) -> Response[bytes]:
    if is_partial(request):
        return Response(b"", status_code=401, headers={**HEADERS, "HX-Redirect": sign_in_url(request)})
    if is_link_from_elsewhere(request):
        # The browser sends SameSite=Strict cookies only if a page of this site asks.
        return render(request, "again.html", url=str(request.url.path), query=request.url.query)
    return redirect(sign_in_url(request))
