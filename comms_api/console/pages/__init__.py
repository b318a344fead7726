"""The pages of the console: a module for each, with its routes; the navigation lists the pages in order."""

from collections.abc import Sequence

from litestar.handlers import HTTPRouteHandler

from comms_api.console.pages import (
    agents,
    audit,
    commands,
    composing,
    enrollment,
    events,
    files,
    groups,
    nodes,
    orders,
    overview,
    selections,
    sign_in,
    users,
)
from comms_api.console.rendering import NAVIGATION, Link
from comms_api.console.static_files import show_static_file
from comms_api.http.roles import ADMINISTER, READ, ROLES

CONSOLE_ROUTES: Sequence[HTTPRouteHandler] = (
    show_static_file,
    *sign_in.ROUTES,
    *overview.ROUTES,
    *agents.ROUTES,
    *selections.ROUTES,
    *commands.ROUTES,
    *composing.ROUTES,
    *orders.ROUTES,
    *events.ROUTES,
    *audit.ROUTES,
    *groups.ROUTES,
    *files.ROUTES,
    *enrollment.ROUTES,
    *nodes.ROUTES,
    *users.ROUTES,
)

NAVIGATION += [
    Link("/console", "Overview", READ[ROLES]),
    Link("/console/agents", "Agents", READ[ROLES]),
    Link("/console/commands", "Commands", READ[ROLES]),
    Link("/console/events", "Events", READ[ROLES]),
    Link("/console/groups", "Groups and files", READ[ROLES]),
    Link("/console/enrollment", "Enrollment", ADMINISTER[ROLES]),
    Link("/console/nodes", "Nodes", READ[ROLES]),
    Link("/console/users", "Users", ADMINISTER[ROLES]),
    Link("/console/audit", "Audit trail", ADMINISTER[ROLES]),
    Link("/schema", "API", READ[ROLES]),
]
