"""Who is behind the changes of a transaction: known to the database, whose triggers write the audit trail."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import msgspec
from sqlalchemy import Text, bindparam, func, literal_column


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
    """Tell the database who begins a transaction; called by the engine, costs a round trip if there is an actor.

    In autocommit each statement is a transaction of its own; one that changes what is audited must say by itself who
    it is from.
    """
    actor = _ACTOR.get()
    if actor is not None and connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        cursor = connection.connection.cursor()
        cursor.execute(
            "SELECT set_config('comms_api.actor', $1::text, true), set_config('comms_api.address', $2::text, true)",
            (actor.name, actor.address or ""),
        )
        cursor.close()


ACTOR_SETTINGS = tuple(
    func.set_config(name, bindparam(parameter, type_=Text), literal_column("true"))
    for name, parameter in (("comms_api.actor", "actor"), ("comms_api.address", "actor_address"))
)
"""For the select list of a statement that may be a transaction by itself: they tell the database who acts."""


def actor_parameters() -> dict[str, str]:
    """Return what `ACTOR_SETTINGS` want; nobody is the empty string."""
    actor = _ACTOR.get() or Actor("")
    return {"actor": actor.name, "actor_address": actor.address or ""}
