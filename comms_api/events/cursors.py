"""Say where a page of states ended, in one opaque word."""

import base64
import binascii
from uuid import UUID

import msgspec

from comms_api.errors import Malformed
from comms_api.events.model import State, StateKey

_KEY = msgspec.json.Decoder(tuple[UUID, str, str, str])


def encode_cursor(state: State) -> str:
    """Return the cursor behind `state`."""
    key = (state.agent_id, state.module, state.collector, state.id)
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).decode()


def decode_cursor(cursor: str | None) -> StateKey | None:
    """Return the key a cursor stands for; raises `Malformed` for anything we did not make."""
    if cursor is None:
        return None
    try:
        agent_id, module, collector, id_ = _KEY.decode(base64.urlsafe_b64decode(cursor))
    except (binascii.Error, ValueError, msgspec.DecodeError):
        raise Malformed("after: not a cursor of this list") from None
    return (str(agent_id), module, collector, id_)
