"""Read the state of a page from its URL, and forms from bodies."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qsl, urlencode

import msgspec

from comms_api.errors import Malformed
from comms_api.http.authentication import AnyConnection
from comms_api.text.faults import locate_fault

T = TypeVar("T", bound=msgspec.Struct)

Words = Annotated[str, msgspec.Meta(max_length=1024)]
"""A short text in a query or a form."""

FIELDS_MAXIMUM = 200
"""The maximum number of fields of a form."""

NAME_CHARACTERS_SHOWN = 64


def read_query(connection: AnyConnection, form: type[T]) -> T:
    """Return the query as a structure; an empty value counts as missing, as forms send every field."""
    return _read(dict(connection.query_params.items()), form)


def read_form(body: bytes, form: type[T]) -> T:
    """Return the fields of a form as a structure; an empty value counts as missing."""
    try:
        fields = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=FIELDS_MAXIMUM)
    except ValueError:
        raise Malformed("The form cannot be read.") from None
    return _read(dict(fields), form)


def _read(fields: Mapping[str, str], form: type[T]) -> T:
    for name, value in fields.items():
        if "\0" in value:
            raise Malformed(f"{name[:NAME_CHARACTERS_SHOWN]}: must not contain NUL")
    return convert({name: value for name, value in fields.items() if value}, form)


def convert(fields: Mapping[str, Any], form: type[T]) -> T:
    """Return texts as a structure; raises `Malformed`."""
    try:
        return msgspec.convert(fields, form, strict=False)
    except msgspec.ValidationError as error:
        raise Malformed(locate_fault(error, form)) from None


def query_of(state: msgspec.Struct, **changes: Any) -> str:
    """Return the query string of a page's state with changes: every field that is not its default."""
    changed = msgspec.structs.replace(state, **changes)
    defaults = {field.name: field.default for field in msgspec.structs.fields(state)}
    plain = msgspec.to_builtins(changed)
    shown = {
        name: _text(value)
        for name, value in plain.items()
        if value is not None and getattr(changed, name) != defaults[name]
    }
    return f"?{urlencode(shown)}" if shown else "?"


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
