"""Read the JSON body of a route straight into its type, so that every fault names its field and none is a bug."""

from functools import cache
from typing import Any

import msgspec
from litestar import Request

from comms_api.http.bodies import read_json


class JsonRequest(Request[Any, Any, Any]):
    """A request whose JSON body is read as what its route declares as `data`.

    Litestar would make plain objects of any depth first, and take a fault for a bug when the field is called as one of
    the route's services is.
    """

    async def json(self) -> Any:
        """Return the body, decoded; raises `Malformed`."""
        form = self.scope["route_handler"].parsed_fn_signature.parameters["data"].annotation
        return read_json(await self.body(), _decoder(form))


@cache  # one for each form that a route declares
def _decoder(form: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(form)
