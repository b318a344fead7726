"""The actor of a transaction; the database's triggers record it in the audit trail."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import msgspec
from sqlalchemy import Text, bindparam, func, literal_column, select


class Actor(msgspec.Struct, frozen=True):
    """A user with the client's address, or a part of the server that acts on its own."""

    name: str
    address: str | None = None


_ACTOR: ContextVar[Actor | None] = ContextVar("actor", default=None)


def act_as(actor: Actor) -> None:
    """Attribute the transactions that this task begins from now on to an actor."""
    _ACTOR.set(actor)


@contextmanager
def acting_as(actor: Actor) -> Iterator[None]:
    """Attribute the transactions of the block to an actor."""
    before = _ACTOR.set(actor)
    try:
        yield
    finally:
        _ACTOR.reset(before)


def has_actor() -> bool:
    """Return whether the transactions of this task have an actor."""
    return _ACTOR.get() is not None


ACTOR_SETTINGS = tuple(
    func.set_config(name, bindparam(parameter, type_=Text), literal_column("true"))
    for name, parameter in (("comms_api.actor", "actor"), ("comms_api.address", "actor_address"))
)
"""Pass the actor to the database; for the select list of a statement that may be its own transaction."""

SET_ACTOR = select(*ACTOR_SETTINGS)


def actor_parameters() -> dict[str, str]:
    """Return the parameters of `ACTOR_SETTINGS`; without an actor, they are empty strings."""
    actor = _ACTOR.get() or Actor("")
    return {"actor": actor.name, "actor_address": actor.address or ""}
