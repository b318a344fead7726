"""Refuse query parameters that a route does not declare: a misspelled filter would otherwise match everything."""

import difflib
from collections.abc import Mapping

from litestar import Litestar
from litestar.handlers import BaseRouteHandler
from litestar.routes import HTTPRoute

from comms_api.errors import Malformed
from comms_api.http.authentication import AnyConnection

NAME_CHARACTERS_SHOWN = 64


class DeclaredQueries:
    """The declared query parameters of every route of an app and of its dependencies; empty until `learn` is called.

    Routes that need no token accept any parameter, because other programs call health checks and logins.
    """

    def __init__(self) -> None:
        self._names: Mapping[BaseRouteHandler, frozenset[str]] = {}

    def learn(self, app: Litestar) -> None:
        """Read the parameters of every route."""
        self._names = {
            handler: frozenset(parameter.field_alias for parameter in model.expected_query_params)
            for route in app.routes
            if isinstance(route, HTTPRoute)
            for handler, model in route.route_handler_map.values()
        }

    async def check(self, connection: AnyConnection, handler: BaseRouteHandler) -> None:
        """Raise `Malformed` for a parameter that the route does not declare, or that contains NUL; a guard."""
        known = self._names.get(connection.scope["route_handler"])  # a guard gets a copy of it
        if known is None or not connection.scope["query_string"] or handler.opt.get("public"):
            return
        for name, value in connection.query_params.multi_items():
            if "\0" in value:
                raise Malformed(f"{name[:NAME_CHARACTERS_SHOWN]}: must not contain NUL")
            if name not in known:
                raise Malformed(f"{name[:NAME_CHARACTERS_SHOWN]!r}: no such query parameter{_hint(name, known)}")


def _hint(name: str, known: frozenset[str]) -> str:
    if nearest := difflib.get_close_matches(name[:NAME_CHARACTERS_SHOWN], sorted(known), n=1, cutoff=0.5):
        return f"; did you mean {nearest[0]!r}?"
    return f"; there are {', '.join(sorted(known))}" if known else "; this path takes none"
