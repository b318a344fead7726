"""Charge unsent answers to the clients that do not read them.

A client may leave its share of bytes unread. The answers of each API may hold a total of bytes in memory; a content
that is sent to many clients counts once.
"""

from functools import partial
from typing import Any

import msgspec
from litestar.handlers import BaseRouteHandler

from comms_api.fairness.budgets import ByteBudget
from comms_api.http.authentication import AnyConnection, client_of
from comms_api.http.request import at_end
from comms_api.http1.endpoint import UNLIMITED
from comms_api.settings import Settings

APIS = 2
"""Each API has half of the total, so agents that do not read their answers cannot block operators, or vice versa."""

SHARE_BYTES = 32 * 2**20
"""The maximum size of the unread answers of one client."""

SMALL_BYTES = 64 * 1024
"""Answers up to this size are not counted: `http1` buffers as much for every connection."""

_RESERVED_BYTES = "reserved_bytes"
_CHARGE = "comms_api.answer_charge"


def reserving(size: int) -> dict[str, Any]:
    """Return the `opt` of a route whose answer takes up to `size` bytes of memory."""
    return {_RESERVED_BYTES: size}


class _Charge(msgspec.Struct):
    """The bytes in memory for one answer."""

    client: str
    size: int = 0
    is_shared: bool = False


class Answers:
    """The unsent answers of one API of a node."""

    def __init__(self, settings: Settings) -> None:
        total, wait_seconds = settings.answer_bytes_in_flight_maximum // APIS, settings.body_wait_seconds
        self._shares = ByteBudget(UNLIMITED, SHARE_BYTES, wait_seconds)
        self.memory = ByteBudget(total, total, wait_seconds)

    async def reserve(self, connection: AnyConnection, handler: BaseRouteHandler) -> None:
        """Hold the bytes that the route declares until its answer has been sent; a guard.

        Raises `Unavailable` when there is no room in time.
        """
        if size := handler.opt.get(_RESERVED_BYTES):
            await self.hold(connection.scope, size)

    async def hold(self, scope: Any, size: int, *, is_shared: bool = False) -> None:
        """Hold bytes until the answer has been sent; for a shared content, charge only the client's share.

        Raises `Unavailable` when there is no room in time.
        """
        client = client_of(scope)
        await self._shares.acquire(client, size)
        try:
            if not is_shared:
                await self.memory.acquire(client, size)
        except BaseException:
            self._shares.release(client, size)
            raise
        self._register(scope, _Charge(client, size, is_shared))

    def count(self, scope: Any, size: int) -> None:
        """Charge the size of a whole answer instead of its reservation, even without room.

        If the client exceeds its share, its next request waits before its answer is built.
        """
        charge: _Charge | None = scope["state"].get(_CHARGE)
        if charge is None:
            if size <= SMALL_BYTES:
                return
            charge = self._register(scope, _Charge(client_of(scope)))
        if not charge.is_shared:
            self._resize(charge, size)

    def _register(self, scope: Any, charge: _Charge) -> _Charge:
        scope["state"][_CHARGE] = charge
        at_end(scope, partial(self._resize, charge, 0))
        return charge

    def _resize(self, charge: _Charge, size: int) -> None:
        for budget in (self._shares,) if charge.is_shared else (self._shares, self.memory):
            budget.charge(charge.client, size - charge.size)
        charge.size = size
