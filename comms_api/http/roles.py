"""Who may call a route of the management API: declared beside it, checked by the guard."""

from typing import Any

from comms_api.tokens.issuer import Role

ROLES = "roles"


def _only(*roles: Role) -> dict[str, Any]:
    return {ROLES: frozenset(roles)}


ADMINISTER = _only("administrator")
"""The `opt` of a route that changes who may do what."""
OPERATE = _only("administrator", "operator")
"""The `opt` of a route that changes the fleet."""
READ = _only("administrator", "operator", "reader")
"""The `opt` of a route that shows the fleet."""
SUBMIT = _only("administrator", "operator", "service")
"""The `opt` of a route that submits commands."""
SERVE = _only("service")
"""The `opt` of a route by which a service gets its own orders."""
ANYONE = _only("administrator", "operator", "reader", "service")
"""The `opt` of a route for every user that is logged in."""
