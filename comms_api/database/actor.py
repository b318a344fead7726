"""Who is behind the changes of a transaction: known to the database, whose triggers write the audit trail."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import msgspec


class Actor(msgspec.Struct, frozen=True):
    """A user, or the part of the server that acts by itself; and the address that asked for it."""

    name: str
    address: str | None = None


_ACTOR: ContextVar[Actor | None] = ContextVar("actor", default=None)


def act_as(actor: Actor) -> None:
    """Let the transactions that this task begins from now on be an actor's."""
    _ACTOR.set(actor)


@contextmanager
def acting_as(actor: Actor) -> Iterator[None]:
    """Let the transactions of the block be an actor's."""
    before = _ACTOR.set(actor)
    try:
        yield
    finally:
        _ACTOR.reset(before)


def tell_actor(connection: Any) -> None:
    """Tell the database who begins a transaction; called by the engine, costs a round trip if there is an actor."""
    actor = _ACTOR.get()
    if actor is not None:
        cursor = connection.connection.cursor()
        cursor.execute(
            "SELECT set_config('comms_api.actor', $1::text, true), set_config('comms_api.address', $2::text, true)",
            (actor.name, actor.address or ""),
        )
        cursor.close()
