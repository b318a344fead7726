"""Who is behind the changes of a transaction: known to the database, whose triggers write the audit trail."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import msgspec
from sqlalchemy import Text, bindparam, func, literal_column, select


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


def has_actor() -> bool:
    """Return whether the transactions of this task have an actor."""
    return _ACTOR.get() is not None


ACTOR_SETTINGS = tuple(
    func.set_config(name, bindparam(parameter, type_=Text), literal_column("true"))
    for name, parameter in (("comms_api.actor", "actor"), ("comms_api.address", "actor_address"))
)
"""For the select list of a statement that may be a transaction by itself: they tell the database who acts."""

SET_ACTOR = select(*ACTOR_SETTINGS)


def actor_parameters() -> dict[str, str]:
    """Return the parameters of `ACTOR_SETTINGS`; without an actor, they are empty strings."""
    actor = _ACTOR.get() or Actor("")
    return {"actor": actor.name, "actor_address": actor.address or ""}
