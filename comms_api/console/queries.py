"""Read the state of a page from its URL, and forms from bodies."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qsl, urlencode
from uuid import UUID

import msgspec

from comms_api.database.pages import PageRequest
from comms_api.errors import Invalid, Malformed
from comms_api.http.authentication import AnyConnection
from comms_api.http.bodies import Bodies
from comms_api.http.request import AnyRequest
from comms_api.text.faults import locate_fault

T = TypeVar("T", bound=msgspec.Struct)

Words = Annotated[str, msgspec.Meta(max_length=1024)]
"""A short text in a query or a form."""

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
"""A time with its zone in a query or a form."""

ROWS = 50
"""The rows of a page of a long list."""

FIELDS_MAXIMUM = 200
"""The maximum number of fields of a form."""

NAME_CHARACTERS_SHOWN = 64


class NewestFirst(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The state of a list by id, newest first: the last item of the previous page."""

    after: UUID | None = None

    @property
    def requested(self) -> PageRequest:
        """The requested page."""
        return PageRequest(ROWS, self.after, "newest")


def read_query(connection: AnyConnection, form: type[T]) -> T:
    """Return the query as a structure; an empty value counts as missing, as forms send every field."""
    return read_texts(dict(connection.query_params.items()), form)


async def receive_form(request: AnyRequest, bodies: Bodies, form: type[T], bytes_maximum: int) -> T:
    """Return the form in the body of a request; raises `TooLarge` and `Malformed`."""
    async with bodies.receive(request, bytes_maximum) as body:
        return read_form(body, form)


def read_form(body: bytes, form: type[T]) -> T:
    """Return the fields of a form as a structure; an empty value counts as missing."""
    return read_texts(read_fields(body), form)


def read_fields(body: bytes) -> dict[str, str]:
    """Return the fields of a form."""
    return dict(read_pairs(body))


def read_pairs(body: bytes) -> list[tuple[str, str]]:
    """Return the names and values of a form's fields, in order; a name may be repeated."""
    try:
        return parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=FIELDS_MAXIMUM)
    except ValueError:
        raise Malformed("The form cannot be read.") from None


def read_texts(fields: Mapping[str, str], form: type[T]) -> T:
    """Return the texts of a form or a query as a structure; an empty text counts as missing."""
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


def read_labels(text: str | None) -> dict[str, str]:
    """Return the labels in a text: `key:value`, separated by commas; raises `Invalid`."""
    pairs = [part.strip().partition(":") for part in (text or "").split(",") if part.strip()]
    if any(not colon for _, colon, _ in pairs):
        raise Invalid("label: write key:value, several separated by commas")
    return {key.strip(): value.strip() for key, _, value in pairs}


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
