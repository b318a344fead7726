"""Decode JSON, and describe a fault in it, in a parameter or a setting: the field, the fault, and the valid values."""

import re
from collections.abc import Iterable, Iterator
from typing import TypeVar

import msgspec
from msgspec.inspect import (
    CollectionType,
    DictType,
    Field,
    LiteralType,
    Metadata,
    NamedTupleType,
    StructType,
    Type,
    UnionType,
    type_info,
)

from comms_api.errors import Malformed
from comms_api.text.printable import WITHOUT_NUL

T = TypeVar("T")

DEEP = 500
"""Python's recursion limit is reached at about twice this depth."""

SEARCHED_BYTES = 2**20

_AT = " - at `"
_STEP = re.compile(r"\.([^.\[\]]+)|\[(?:\d+|\.\.\.)\]")
_NO_SUCH_VALUE = "Invalid enum value"
_NUL = f"Expected `str` matching regex {WITHOUT_NUL!r}"
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]')


def read_json(body: bytes, decoder: msgspec.json.Decoder[T], expected: str = "") -> T:
    """Decode JSON; raises `Malformed`, whose sentence names the field and the `expected` form.

    The encoding is checked first, since msgspec passes raw members on unchecked.
    """
    try:
        body.decode()
        return decoder.decode(body)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        prefix = f"Expected {expected}: " if expected else ""
        raise Malformed(prefix + describe_fault(error, body, decoder.type)) from None


def describe_fault(error: Exception, body: bytes, form: object) -> str:
    """Return one sentence that begins with the field and says why `body` does not match the type `form`."""
    if isinstance(error, RecursionError):
        return f"{_deepest_member(body)}: nested too deeply"
    if not isinstance(error, msgspec.ValidationError):
        return f"not valid JSON: {error}"
    return locate_fault(error, form)


def locate_fault(error: msgspec.ValidationError, form: object) -> str:
    """Return one sentence that begins with the field and says why a value does not match the type `form`."""
    sentence, _, path = str(error).partition(_AT)
    path = path.removesuffix("`").removeprefix("$")
    fault = complete_fault(sentence, form, path)
    return f"{path.removeprefix('.')}: {fault}" if path else fault


def complete_fault(sentence: str, form: object, path: str = "") -> str:
    """Add the valid values to msgspec's sentence about an invalid one, at a path within a type."""
    if sentence == _NUL:
        return "must not contain NUL"
    if not sentence.startswith(_NO_SUCH_VALUE):
        return sentence
    types: Iterable[Type] = [type_info(form)]
    for step in _STEP.finditer(path):
        types = [inner for one in types for inner in _inner(one, step[1])]
    literals = [member for one in types for member in _alternatives(one) if isinstance(member, LiteralType)]
    values = [repr(value) for literal in literals for value in literal.values]
    return f"{sentence}; expected one of {', '.join(values)}" if values else sentence


def _inner(outer: Type, name: str | None) -> Iterator[Type]:
    """Yield the types of a named member, or of the items."""
    for one in _alternatives(outer):
        if isinstance(one, StructType | NamedTupleType):
            fields: Iterable[Field] = one.fields
            yield from (field.type for field in fields if field.encode_name == name)
        elif isinstance(one, DictType):
            yield one.value_type
        elif isinstance(one, CollectionType):
            yield one.item_type


def _alternatives(one: Type) -> Iterator[Type]:
    if isinstance(one, Metadata):
        yield from _alternatives(one.type)
    elif isinstance(one, UnionType):
        yield from one.types
    else:
        yield one


def _deepest_member(body: bytes) -> str:
    """Return the name of the outermost object's deeply nested member, or `body` if it is not found quickly."""
    depth, member = 0, b""
    for match in _TOKEN.finditer(body, 0, SEARCHED_BYTES):
        token = match[0]
        if token in b"[{":
            depth += 1
        elif token in b"]}":
            depth -= 1
        elif depth == 1:
            member = token
        if depth > DEEP:
            return member.strip(b'"').decode(errors="replace") or "body"
    return "body"
