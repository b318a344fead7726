"""Log a program's standard error without the key, which a faulty program may write anywhere."""

import re

import msgspec

from comms_api.key_requests.model import ExternalAgent, Refusal, printable

COMPLAINT_BYTES_MAXIMUM = 4096
CUT_CHARACTERS = 1024
"""Removed from the end of a truncated text, which may hold part of a key: 128 characters, up to six each in JSON."""

HIDDEN = "***"

_KEY_IN_JSON = re.compile(rb'"key"\s*:\s*"((?:[^"\\]|\\.)*)')
_LONG_WORD = re.compile(r"[\w+=-]{24,}")
_KEY_IN_TEXT = re.compile(r"""(?i)(\bkey\b["']?\s*[:=]\s*)("[^"]*"?|'[^']*'?|[^\s,;}]+)""")


def keys_of(answer: ExternalAgent | Refusal | None, output: bytes) -> set[str]:
    """Return every spelling of the key in an answer and in the output that it was read from, valid or not."""
    keys = {match.decode(errors="replace") for match in _KEY_IN_JSON.findall(output)}
    if isinstance(answer, ExternalAgent):
        keys |= {answer.key, msgspec.json.encode(answer.key).decode()[1:-1]}
    return keys - {""}


def without_keys(complaint: bytes, keys: set[str]) -> str:
    """Return a program's standard error as one bounded, printable line; hide `keys` and words that look like keys."""
    text = complaint.decode(errors="replace")
    for key in sorted(keys, key=len, reverse=True):
        text = text.replace(key, HIDDEN)
    text = _LONG_WORD.sub(_hide_random, _KEY_IN_TEXT.sub(rf"\1{HIDDEN}", text))
    if len(complaint) > COMPLAINT_BYTES_MAXIMUM:
        text = f"{text[:-CUT_CHARACTERS]}…"
    return printable(text, COMPLAINT_BYTES_MAXIMUM)


def _hide_random(word: re.Match[str]) -> str:
    """Hide a long word that contains a digit: a failed program may print a key without a label."""
    return HIDDEN if any(character.isdigit() for character in word[0]) else word[0]
