"""Read the cursors of pages of states; `database.pages` writes them."""

import base64
import binascii

import msgspec

from comms_api.errors import Malformed
from comms_api.states.model import StateCursor

_CURSOR = msgspec.json.Decoder(StateCursor)


def decode_cursor(cursor: str | None) -> StateCursor | None:
    """Return the key that a cursor encodes; raises `Malformed` for any other text."""
    if cursor is None:
        return None
    try:
        key: StateCursor = _CURSOR.decode(base64.urlsafe_b64decode(cursor))
    except (binascii.Error, ValueError, msgspec.DecodeError):
        raise Malformed("after: not a cursor of this list") from None
    return key
