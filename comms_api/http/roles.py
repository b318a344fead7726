"""The roles that may call a route of the management API; each route declares them, and the guard checks them."""

from typing import Any

from comms_api.tokens.issuer import Role

ROLES = "roles"


def _only(*roles: Role) -> dict[str, Any]:
    return {ROLES: frozenset(roles)}


ADMINISTER = _only("administrator")
"""The `opt` of a route that changes permissions."""
OPERATE = _only("administrator", "operator")
"""The `opt` of a route that changes the fleet."""
READ = _only("administrator", "operator", "reader")
"""The `opt` of a route that shows the fleet."""
SUBMIT = _only("administrator", "operator", "service")
"""The `opt` of a route that submits commands."""
SERVE = _only("service")
"""The `opt` of a route that returns a service's orders."""
ANYONE = _only("administrator", "operator", "reader", "service")
"""The `opt` of a route for every logged-in user."""
FOLLOW = ANYONE
"""The `opt` of a route that shows commands and orders: a service sees only what it has submitted."""
