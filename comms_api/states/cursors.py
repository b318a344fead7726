"""Say where a page of states ended, in one opaque word."""

import base64
import binascii

import msgspec

from comms_api.errors import Malformed
from comms_api.states.model import State, StateCursor

_CURSOR = msgspec.json.Decoder(StateCursor)


def encode_cursor(state: State) -> str:
    """Return the cursor behind `state`."""
    key = (state.agent_id, state.module, state.collector, state.id)
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).decode()


def decode_cursor(cursor: str | None) -> StateCursor | None:
    """Return the key a cursor stands for; raises `Malformed` for anything we did not make."""
    if cursor is None:
        return None
    try:
        key: StateCursor = _CURSOR.decode(base64.urlsafe_b64decode(cursor))
    except (binascii.Error, ValueError, msgspec.DecodeError):
        raise Malformed("after: not a cursor of this list") from None
    return key
