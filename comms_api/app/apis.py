"""The two ASGI apps of a node, both served from one event loop."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from litestar import Litestar, MediaType, Response, Router, get
from litestar.datastructures import State
from litestar.di import Provide
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Server
from litestar.types import ASGIApp, Receive, Scope, Send

from comms_api import __version__
from comms_api.actions import routes as actions
from comms_api.agents import routes as agents
from comms_api.agents.dependencies import NAMED_AGENTS
from comms_api.app.node import Node
from comms_api.audit import routes as audit
from comms_api.batches.reading import BatchReader
from comms_api.cluster import routes as cluster
from comms_api.commands import routes as commands
from comms_api.console.errors import answer_error
from comms_api.console.live import LIVE_PARTS, LiveParts
from comms_api.console.pages import CONSOLE_ROUTES
from comms_api.console.sessions import HOME, find_session, require_own_page, token_or_session
from comms_api.console.summary import Overview
from comms_api.diagnosis import routes as diagnosis
from comms_api.events import routes as events
from comms_api.events.reading import routes as event_reading
from comms_api.fairness.concurrency import Concurrency
from comms_api.files import routes as files
from comms_api.fleet import routes as fleet
from comms_api.groups import routes as groups
from comms_api.health import routes as health
from comms_api.http.authentication import (
    PUBLIC,
    SESSION,
    AnyConnection,
    Guard,
    admit_networks,
    agent_id,
    require_token,
    token_or_login,
)
from comms_api.http.description.operations import SECURITY_SCHEMES, DescribedOperations
from comms_api.http.description.page import (
    CONTENT_SECURITY_POLICY,
    DescriptionPage,
    DescriptionYaml,
    description_guard,
)
from comms_api.http.fast_lane import FastLane
from comms_api.http.json_request import BODIES, JsonRequest
from comms_api.http.pages import PAGES
from comms_api.http.problems import answer_problem
from comms_api.http.queries import DeclaredQueries
from comms_api.http.request import close_afterwards, remote_address
from comms_api.http.roles import ANYONE
from comms_api.http1.endpoint import AsgiApp
from comms_api.login import routes as login
from comms_api.metrics import routes as metrics_routes
from comms_api.metrics.service import Metrics
from comms_api.orders import routes as orders
from comms_api.states import routes as states
from comms_api.tokens.issuer import AGENTS, MANAGEMENT, Claims
from comms_api.users import routes as users
from comms_api.webhooks import routes as webhooks

PREFIX = "/api/v1"
"""Real agents use this prefix; every path also works without it."""

CLIENT_REQUESTS_MAXIMUM = 4
"""The maximum number of a client's requests in progress, without polls: half of the default connection pool."""

MANAGEMENT_SERVICES = (
    "agents",
    "audit",
    "groups",
    "users",
    "events",
    "event_reader",
    "event_tail",
    "fleet_events",
    "fleet_followers",
    "states",
    "actions",
    "orders",
    "commands",
    "files",
    "stages",
    "diagnoses",
    "watch",
    "webhooks",
    "bodies",
    "cluster",
    "membership",
    "readiness",
    "certificate",
)


@get("/", status_code=200, opt=PUBLIC, media_type=MediaType.TEXT)
async def check_health() -> Response[bytes]:
    """Answer a load balancer: 200, empty."""
    return Response(b"")


MANAGEMENT_HANDLERS: Sequence[HTTPRouteHandler] = (
    check_health,
    cluster.check_readiness,
    *health.MANAGEMENT_ROUTES,
    *cluster.ROUTES,
    *users.ROUTES,
    *audit.ROUTES,
    *agents.ROUTES,
    *groups.ROUTES,
    *fleet.ROUTES,
    *webhooks.ROUTES,
    *metrics_routes.ROUTES,
    *commands.MANAGEMENT_ROUTES,
    *actions.ROUTES,
    *orders.MANAGEMENT_ROUTES,
    *events.MANAGEMENT_ROUTES,
    *event_reading.ROUTES,
    *states.MANAGEMENT_ROUTES,
    *files.MANAGEMENT_ROUTES,
    *diagnosis.ROUTES,
)


def _show_keys(node: Node) -> HTTPRouteHandler:
    @get("/.well-known/jwks.json", opt=PUBLIC)
    async def show_keys() -> dict[str, list[dict[str, str]]]:
        """Show the public keys that tokens are verified by (RFC 7517)."""
        return node.tokens.keyring.jwks()

    return show_keys


def agent_api(node: Node) -> AsgiApp:
    """Return the agent API."""
    handlers = [
        check_health,
        cluster.check_readiness,
        *health.AGENT_ROUTES,
        _show_keys(node),
        *login.ROUTES,
        *agents.AGENT_ROUTES,
        *files.AGENT_ROUTES,
        *events.AGENT_ROUTES,
        *states.AGENT_ROUTES,
        *orders.AGENT_ROUTES,
    ]
    batches = BatchReader(
        node.bodies, node.cpu, node.slices, node.settings.batch_items_maximum, node.descriptions.note_batch
    )
    services = {
        "bodies": node.bodies,
        "membership": node.membership,
        "readiness": node.readiness,
        "login": node.login,
        "rotation": node.rotation,
        "agents": node.agents,
        "files": node.files,
        "file_services": files.FileServices(node.files, node.agent_answers),
        "event_services": events.EventServices(batches, node.events),
        "state_services": states.StateServices(batches, node.agent_answers, node.states),
        "order_services": _order_services(node),
    }
    guard = require_token(node.tokens, AGENTS, _record_agent(node), _requests(node))
    api = _litestar(node, "comms-api: agent API", handlers, _provided(services), [guard])
    hot = [*events.AGENT_ROUTES, *states.AGENT_ROUTES, *orders.AGENT_ROUTES, *login.LOGIN_ROUTES]
    return FastLane(api, guard, hot, services, PREFIX)


def _order_services(node: Node) -> orders.OrderServices:
    return orders.OrderServices(
        node.bodies,
        node.slices,
        node.dispatcher,
        node.reports,
        node.settings.poll_wait_seconds,
        node.record_span,
    )


def _requests(node: Node) -> Concurrency:
    return Concurrency(CLIENT_REQUESTS_MAXIMUM, node.settings.database_timeout_seconds)


def _record_agent(node: Node) -> Callable[[AnyConnection, Claims], None]:
    def record(connection: AnyConnection, claims: Claims) -> None:
        node.presence.saw(agent_id(claims), remote_address(connection))
        if node.membership.is_draining:
            close_afterwards(connection.scope)

    return record


def _record_nobody(_connection: AnyConnection, _claims: Claims) -> None:
    """Record nothing for a user: the audit trail has every change that users make."""


def management_api(node: Node, metrics: Metrics) -> AsgiApp:
    """Return the management API."""
    services = {name: getattr(node, name) for name in MANAGEMENT_SERVICES} | {
        "metrics": metrics,
        "order_services": _order_services(node),
        "file_services": files.FileServices(node.files, node.answers),
        "submission_services": commands.SubmissionServices(
            node.bodies, node.submissions, node.settings.order_timeout_maximum_seconds, node.tokens.now
        ),
    }
    requests, log_in = _requests(node), users.basic_login(node.users)
    find_token = token_or_session(token_or_login(log_in), find_session(node.users))
    guard = require_token(node.tokens, MANAGEMENT, _record_nobody, requests, find_token)
    guard = admit_networks(node.settings.metrics_networks, guard)
    handlers = [*MANAGEMENT_HANDLERS, _show_keys(node)]
    queries = DeclaredQueries()
    dependencies = _provided(services) | NAMED_AGENTS | PAGES | orders.COMMAND_FILTERS | event_reading.EVENT_FILTERS
    api = _litestar(
        node, "comms-api: management API", handlers, dependencies, [guard, queries.check, node.answers.reserve]
    )
    queries.learn(api)
    console = _console(node, dependencies, requests)
    return FastLane(_Mounted(HOME, console, api), guard, commands.SUBMISSION_ROUTES, services, PREFIX)


class _Mounted:
    """Passes the requests below a path to one app, and the others to another app."""

    def __init__(self, path: str, app: ASGIApp, others: ASGIApp) -> None:
        self._path, self._inside = path, path + "/"
        self._app, self._others = app, others

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request. This is not a coroutine, since every held poll would keep one in memory."""
        path = scope.get("path", "")
        is_inside = path == self._path or path.startswith(self._inside)
        return (self._app if is_inside else self._others)(scope, receive, send)


def _console(node: Node, dependencies: Mapping[str, Provide], requests: Concurrency) -> Litestar:
    """Return the console: a separate app, whose errors are pages."""
    overview = Overview(node.agents, node.cluster, node.orders, node.event_reader)
    guard = require_token(node.tokens, MANAGEMENT, _record_nobody, requests, find_session(node.users))
    return Litestar(
        route_handlers=CONSOLE_ROUTES,
        guards=[guard, require_own_page, node.answers.reserve],
        request_class=JsonRequest,
        state=State({BODIES: node.bodies, LIVE_PARTS: LiveParts()}),
        dependencies={
            **dependencies,
            "overview": _provide(overview),
            "selections": _provide(node.selections),
            "previews": _provide(node.previews),
        },
        exception_handlers={Exception: answer_error},
        openapi_config=None,
        request_max_body_size=node.settings.body_bytes_maximum,
        logging_config=None,
    )


def _litestar(
    node: Node,
    title: str,
    handlers: Sequence[HTTPRouteHandler],
    dependencies: Mapping[str, Provide],
    guards: Sequence[Guard],
) -> Litestar:
    descriptions = [DescriptionPage(), DescriptionYaml()]
    return Litestar(
        route_handlers=handlers,
        guards=[*guards],
        request_class=JsonRequest,
        state=State({BODIES: node.bodies}),
        dependencies=dependencies,
        exception_handlers={Exception: answer_problem},
        openapi_config=OpenAPIConfig(
            title=title,
            version=__version__,
            servers=[Server(url="/"), Server(url=PREFIX)],
            use_handler_docstrings=True,
            components=SECURITY_SCHEMES,
            render_plugins=descriptions,
            openapi_router=Router(
                path="/schema",
                route_handlers=[],
                guards=[description_guard(descriptions)],
                opt=ANYONE | SESSION,
                include_in_schema=False,
                response_headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY},
            ),
        ),
        plugins=[DescribedOperations()],
        request_max_body_size=node.settings.body_bytes_maximum,
        logging_config=None,
    )


def _provided(services: Mapping[str, Any]) -> dict[str, Provide]:
    return {name: _provide(service) for name, service in services.items()}


def _provide(service: Any) -> Provide:
    return Provide(lambda: service, sync_to_thread=False)
