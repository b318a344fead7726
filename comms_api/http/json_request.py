"""Decode a route's JSON body directly into its type, so that every fault is a 400 that names its field."""

from functools import cache
from typing import Any

import msgspec
from litestar import Request

from comms_api.http.bodies import JSON_BYTES_MAXIMUM, Bodies
from comms_api.text.faults import read_json

BODIES = "bodies"
"""The name of the node's `Bodies` in the state of the app."""


class JsonRequest(Request[Any, Any, Any]):
    """A request whose JSON body is decoded as the type of its route's `data`.

    Litestar would first decode plain objects of any depth. It would also answer 500 to a fault in a field that has the
    same name as one of the route's services.
    """

    _raw: bytes | None = None

    async def body(self) -> bytes:
        """Return the body, read within the budgets of its client."""
        if self._raw is None:
            bodies: Bodies = self.app.state[BODIES]
            async with bodies.receive(self, JSON_BYTES_MAXIMUM) as self._raw:
                return self._raw
        return self._raw

    async def json(self) -> Any:
        """Return the body, decoded; raises `Malformed`."""
        form = self.scope["route_handler"].parsed_fn_signature.parameters["data"].annotation
        return read_json(await self.body(), _decoder(form))


@cache  # one decoder for each type that a route declares
def _decoder(form: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(form)
