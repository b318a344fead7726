"""Forms from JSON Schemas, and args from forms."""

import json
from typing import Any

import pytest

from comms_api.console.schema_forms import FIELDS_MAXIMUM, defaults_of, expresses, form_of, read_args
from comms_api.errors import Malformed


def object_of(*required: str, **properties: Any) -> bytes:
    return json.dumps({"type": "object", "properties": properties, "required": required}).encode()


def read(schema: bytes, **sent: str) -> Any:
    fields = form_of(schema)
    assert fields is not None
    return json.loads(read_args(fields, {f"args/{name}": text for name, text in sent.items()}))


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "string"}, "a", "a"),
        ({"type": "integer"}, "12345678901234567890", 12345678901234567890),
        ({"type": "integer"}, "1.5", 1.5),
        ({"type": "number"}, "-1e-3", -0.001),
        ({"type": "number"}, "NaN", "NaN"),
        ({"type": "number"}, "9" * 5_000, "9" * 5_000),
        ({"type": ["number", "null"]}, "1", 1),
        ({"type": "boolean"}, "false", False),
        ({"type": "boolean"}, "maybe", "maybe"),
        ({"enum": [1, "1", None]}, '"1"', "1"),
        ({"enum": [1, "1", None]}, "null", None),
        ({"enum": [1]}, "2", "2"),
        ({"const": {"a": 1}}, '{"a":1}', {"a": 1}),
        ({"type": ["string", "array"], "items": {"type": "string"}}, "a\r\n\r\nb ", ["a", "b "]),
        ({"type": "array", "items": {"type": "integer"}}, "[1]", [1]),
        ({"anyOf": [{"type": "string"}]}, '"a"', "a"),
        (True, "{}", {}),
    ],
)
def test_a_field_sends_a_value_of_its_type(schema: Any, text: str, value: Any) -> None:
    assert read(object_of(x=schema), x=text) == {"x": value}
    assert read(object_of(x=schema), x="") == {}


def test_an_empty_field_is_left_out_except_required_lists_and_objects() -> None:
    lists, inner = {"type": "array", "items": {"type": "string"}}, {"type": "object", "properties": {"a": {}}}
    assert read(object_of("x", "y", "z", x=lists, y=inner, z={"type": "string"})) == {"x": [], "y": {}}
    assert read(object_of(x=lists, y=inner)) == {}


def test_faulty_json_names_its_field() -> None:
    with pytest.raises(Malformed, match=r"^action\.args\.x: not valid JSON"):
        read(object_of(x={}), x="{")


@pytest.mark.parametrize(
    "schema",
    [
        b"true",
        b'{"type":["object","array"]}',
        b'{"type":"object","properties":{}}',
        b'{"properties":[]}',
        b'{"properties":{"a":{"type":1}}}',
        b'{"properties":{"a":{"$ref":"#/missing"}}}',
        b'{"properties":{"a":{"enum":1}}}',
        object_of(**{f"x{number}": {} for number in range(FIELDS_MAXIMUM + 1)}),
        object_of(x={"enum": list(range(1_000))}),
    ],
)
def test_a_schema_without_a_form_is_edited_as_json(schema: bytes) -> None:
    assert form_of(schema) is None


def test_no_properties_are_a_form_only_if_there_are_no_others() -> None:
    assert form_of(b'{"type":"object","properties":{},"additionalProperties":false}') == ()


def test_defaults_are_those_of_the_schema_or_of_its_properties() -> None:
    nested = {"type": "object", "properties": {"b": {"default": [1]}, "c": {}}}
    assert defaults_of(object_of(a={"$ref": "#/properties/n/properties/b"}, n=nested)) == {"a": [1], "n": {"b": [1]}}
    assert defaults_of(b'{"default":{"x":1},"properties":{"x":{"default":2}}}') == {"x": 1}
    assert defaults_of(b"true") == {}


@pytest.mark.parametrize(
    ("args", "is_expressed"),
    [
        ({"s": "a", "l": ["b"], "o": {"t": "c"}, "a/b~": 1}, True),
        ({"s": "a", "other": 1}, False),
        ({"s": ""}, False),
        ({"l": ["a", ""]}, False),
        ({"o": {"t": "c", "u": 1}}, False),
        ([], False),
    ],
)
def test_args_that_a_form_would_change_are_not_expressed(args: Any, is_expressed: bool) -> None:  # noqa: FBT001
    strings = {"type": "array", "items": {"type": "string"}}
    nested = {"type": "object", "properties": {"t": {"type": "string"}}}
    schema = object_of(**{"s": {"type": "string"}, "l": strings, "o": nested, "a/b~": {"type": "integer"}})
    fields = form_of(schema, args)
    assert fields is not None
    assert expresses(fields, args) == is_expressed


@pytest.mark.parametrize("args", [{"s": "two\nlines"}, {"s": 1}, {"l": ["two\nlines"]}])
def test_values_that_no_field_can_show_have_no_form(args: Any) -> None:
    assert form_of(object_of(s={"type": "string"}, l={"type": "array", "items": {"type": "string"}}), args) is None
