"""Faults of forms, each with the name of its field."""

import re

import msgspec

_FIELD = re.compile(r"(\w+)(?:: |\.(?=\w)|(?=\[))")


class Fault(msgspec.Struct, frozen=True):
    """A fault of a form; `field` is the name of the field that has it, or empty.

    `where` and `message` are the sentence that lists the fault; next to the field, the message suffices.
    """

    field: str
    where: str
    message: str


def fault_of(sentence: str) -> Fault:
    """Return the fault in a sentence of an error; if a field is at fault, the sentence begins with its name."""
    match = _FIELD.match(sentence)
    return Fault(match[1], match[0], sentence[match.end() :]) if match else Fault("", "", sentence)
