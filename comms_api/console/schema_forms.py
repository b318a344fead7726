"""Forms for the args of actions: fields from a JSON Schema, and args from the fields.

A form has texts, numbers, choices, lists of texts, and objects of these. Whatever else a schema allows is written as
JSON. A form only helps to write args: the server checks them against the schema.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import msgspec

from comms_api.actions.schemas import find_target
from comms_api.errors import Invalid, Malformed
from comms_api.text.faults import read_json

FIELDS_MAXIMUM = 100
"""Args with more fields are edited as JSON."""

CHOICES_MAXIMUM = 500
REFERENCES_MAXIMUM = 64

Kind = Literal["text", "lines", "integer", "number", "boolean", "choice", "object", "json"]
SIMPLE: Mapping[str, Kind] = {"string": "text", "integer": "integer", "number": "number", "boolean": "boolean"}
ATTRIBUTES = {"minLength": "minlength", "maxLength": "maxlength", "minimum": "min", "maximum": "max"}
"""The keywords of a schema that HTML has too."""

T = TypeVar("T")

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,99})(?:\.[0-9]{1,99})?(?:[eE][+-]?[0-9]{1,3})?")
_ANY = msgspec.json.Decoder(msgspec.Raw)
_ABSENT: Any = object()


class Field(msgspec.Struct, frozen=True):
    """A field of a form. Its name is a path (JSON Pointer), its value a text as the form sends it.

    A choice has `choices`, each with its JSON and its text; an object has `fields`.
    """

    name: str
    kind: Kind
    label: str
    description: str
    is_required: bool
    value: str
    attributes: Mapping[str, str] = {}
    choices: Sequence[tuple[str, str]] = ()
    fields: Sequence["Field"] = ()


def form_of(schema: bytes, args: Any = None) -> Sequence[Field] | None:
    """Return the fields for an object that matches a schema, with the values of `args`, or empty.

    None if the schema is not that of an object with properties, or if no field can have such a value.
    """
    document = msgspec.json.decode(schema)
    try:
        resolved = _resolve(document, document)
        fields = tuple(_fields_of(resolved, document, "args", args))
    except (Invalid, TypeError, ValueError, AttributeError, KeyError):  # a schema may have values of any type
        return None
    is_complete = fields or resolved.get("additionalProperties") is False
    return fields if is_complete and sum(1 + len(field.fields) for field in fields) <= FIELDS_MAXIMUM else None


def expresses(fields: Sequence[Field], args: Any) -> bool:
    """Return whether a form with these fields sends these args if nobody changes it."""
    try:
        sent: Any = msgspec.json.decode(read_args(fields, dict(_values_of(fields))))
    except Malformed:
        return False
    return bool(sent == args)


def defaults_of(schema: bytes) -> Any:
    """Return the default args of a schema: its default, or an object with those of its properties."""
    document = msgspec.json.decode(schema)
    try:
        found = _defaults_of(_resolve(document, document), document)
    except (Invalid, TypeError, ValueError, AttributeError):
        return {}
    return {} if found is _ABSENT else found


def _resolve(schema: Any, document: Any) -> Any:
    """Follow the references of a schema within its document."""
    for _ in range(REFERENCES_MAXIMUM):
        if not isinstance(schema, dict) or not isinstance(schema.get("$ref"), str):
            break
        schema = {**find_target(document, schema["$ref"]), **{key: schema[key] for key in schema if key != "$ref"}}
    return schema


def _defaults_of(schema: Any, document: Any) -> Any:
    """Return the default of a schema, or an object with the defaults of its properties."""
    if not isinstance(schema, dict) or "default" in schema or "properties" not in schema:
        return schema.get("default", _ABSENT) if isinstance(schema, dict) else _ABSENT
    found = {key: _defaults_of(_resolve(member, document), document) for key, member in schema["properties"].items()}
    return {key: value for key, value in found.items() if value is not _ABSENT} or _ABSENT


def _fields_of(schema: Any, document: Any, name: str, values: Any) -> Iterator[Field]:
    required = schema.get("required", ())
    for key, member in schema["properties"].items():
        value = values.get(key, _ABSENT) if isinstance(values, dict) else _ABSENT
        path = f"{name}/{key.replace('~', '~0').replace('/', '~1')}"
        yield _field_of(_resolve(member, document), document, path, value, is_required=key in required)


def _field_of(schema: Any, document: Any, name: str, value: Any, *, is_required: bool) -> Field:
    if not isinstance(schema, dict):
        schema = {}
    kind = _kind_of(schema, document, is_nested=name.count("/") > 1)
    choices = _choices_of(schema) if kind == "choice" else ()
    return Field(
        name,
        kind,
        str(schema.get("title") or _key_of(name)),
        str(schema.get("description") or ""),
        is_required,
        "" if value is _ABSENT or kind == "object" else _text_of(kind, value, choices),
        {html: str(schema[word]) for word, html in ATTRIBUTES.items() if word in schema},
        choices,
        tuple(_fields_of(schema, document, name, value)) if kind == "object" else (),
    )


def _kind_of(schema: Mapping[str, Any], document: Any, *, is_nested: bool) -> Kind:
    if "enum" in schema or "const" in schema:
        return "choice"
    types = schema.get("type", ())
    types = {types} if isinstance(types, str) else {*types} - {"null"}
    items = _resolve(schema.get("items"), document)
    if "array" in types and isinstance(items, dict) and items.get("type") == "string":
        return "lines"
    if types == {"object"} and "properties" in schema and not is_nested:
        return "object"
    return SIMPLE.get(types.pop(), "json") if len(types) == 1 else "json"


def _choices_of(schema: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    values = schema.get("enum", [schema.get("const")])
    if len(values) > CHOICES_MAXIMUM:
        raise Invalid("too many choices for a form")
    encoded = [msgspec.json.encode(value).decode() for value in values]
    return [(text, value if isinstance(value, str) else text) for text, value in zip(encoded, values, strict=True)]


def _text_of(kind: Kind, value: Any, choices: Sequence[tuple[str, str]]) -> str:
    """Return a value as the form sends it; raises `Invalid` for a value that this kind of field cannot express."""
    encoded = msgspec.json.encode(value).decode()
    match kind, value:
        case "text", str() if value.isprintable():
            return value
        case "lines", list() if all(isinstance(item, str) and item.isprintable() for item in value):
            return "\n".join(value)
        case ("integer" | "number", int() | float()) | ("boolean", bool()):
            return encoded
        case "choice", _ if encoded in dict(choices):
            return encoded
        case "json", _:
            return msgspec.json.format(encoded)
        case _:
            raise Invalid(f"a field of the kind {kind} cannot express this value")


def _values_of(fields: Sequence[Field]) -> Iterator[tuple[str, str]]:
    for field in fields:
        yield field.name, field.value
        yield from _values_of(field.fields)


def read_args(fields: Sequence[Field], sent: Mapping[str, str]) -> bytes:
    """Return the args that a form sends, as JSON; empty fields are left out. Raises `Malformed` for faulty JSON.

    A number that is none stays a text, so that the schema's check names its field.
    """
    return msgspec.json.encode(_object_of(fields, sent))


def _object_of(fields: Sequence[Field], sent: Mapping[str, str]) -> dict[str, Any]:
    values = {_key_of(field.name): _value_of(field, sent) for field in fields}
    return {key: value for key, value in values.items() if value is not _ABSENT}


def _value_of(field: Field, sent: Mapping[str, str]) -> Any:
    text = sent.get(field.name, "")
    if field.kind == "object":
        return _object_of(field.fields, sent) or ({} if field.is_required else _ABSENT)
    if field.kind == "lines":
        return [line for line in text.splitlines() if line] or ([] if field.is_required else _ABSENT)
    if not text:
        return _ABSENT
    if field.kind == "json":
        return read_value(text, _ANY, path_of(field.name))
    is_number = field.kind in {"integer", "number"} and _NUMBER.fullmatch(text)
    is_boolean = field.kind == "boolean" and text in {"true", "false"}
    return msgspec.Raw(text.encode()) if is_number or is_boolean or text in dict(field.choices) else text


def read_value(text: str, decoder: msgspec.json.Decoder[T], path: str) -> T:
    """Return the JSON in a text; raises `Malformed`, whose sentence begins with the path of the value."""
    try:
        return read_json(text.encode(), decoder)
    except Malformed as error:
        raise Malformed(f"{path}: {error.detail}") from None


def path_of(name: str) -> str:
    """Return the path of a field's value in the server's errors, such as `action.args.limits.cpu`."""
    return "action." + ".".join(_key_of(step) for step in name.split("/"))


def _key_of(name: str) -> str:
    return name.rpartition("/")[2].replace("~1", "/").replace("~0", "~")
