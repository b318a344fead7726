"""Build an example of each JSON body and answer from its schema and from samples of its members."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from comms_api.http.description.samples import AT, BODIES, SAMPLES

Schema = Mapping[str, Any]
REFERENCE = "#/components/schemas/"

TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}
"""The phrases of RFC 9110 that differ from those of older versions of Python."""


_TYPES = {
    "array": list,
    "boolean": bool,
    "integer": int,
    "null": type(None),
    "number": int | float,
    "object": dict,
    "string": str,
}


PLACEHOLDER = "?"
"""Stands for a text that has no sample; a test finds it."""


class Examples:
    """Builds examples for the schemas of one description."""

    def __init__(self, schemas: Mapping[str, Schema]) -> None:
        self._schemas = schemas

    def of(self, schema: Schema, owner: str, member: str = "") -> Any:
        """Return an example of a schema, or of this member of the structure `owner`."""
        if "$ref" in schema:
            name = schema["$ref"].removeprefix(REFERENCE)
            return BODIES[name] if name in BODIES else self.of(self._schemas[name], name, member)
        for key in (f"{owner}.{member}", member):
            if key in SAMPLES and _fits(SAMPLES[key], schema):
                return SAMPLES[key]
        if "enum" in schema:
            return next(value for value in schema["enum"] if value is not None)
        if variants := schema.get("oneOf", schema.get("anyOf")):
            return self.of(next(one for one in variants if one.get("type") != "null"), owner, member)
        return self._by_type(schema, owner, member)

    def _by_type(self, schema: Schema, owner: str, member: str) -> Any:
        kind = schema.get("type")
        if kind == "object" and "properties" in schema:
            return {name: self.of(one, owner, name) for name, one in schema["properties"].items()}
        if kind == "object" and "additionalProperties" in schema:
            return {SAMPLES["name"]: self.of(schema["additionalProperties"], owner, member)}
        if kind == "array":
            return [self.of(schema["items"], owner, member)]
        simple: dict[Any, Any] = {"boolean": False, "integer": 1, "number": 1.5}
        if kind in simple:
            return simple[kind]
        return AT if schema.get("format") == "date-time" else PLACEHOLDER


def problem_example(status: int, sentence: str) -> dict[str, Any]:
    """Return an example of a problem (RFC 9457)."""
    return {
        "type": "about:blank",
        "title": TITLES.get(status) or HTTPStatus(status).phrase,
        "status": status,
        "detail": sentence,
        "instance": "urn:uuid:019c131a-2b7c-7d10-8f3e-5a1f0c9e4b21",
        "message": sentence,
        "code": status,
    }


def _fits(sample: object, schema: Schema) -> bool:
    """Return whether a sample, which is found by its name only, is of the type of a schema."""
    for one in schema.get("oneOf", schema.get("anyOf", [schema])):
        if "enum" in one:
            fits = sample in one["enum"]
        elif "$ref" in one:
            fits = isinstance(sample, dict)
        else:
            fits = "type" not in one or isinstance(sample, _TYPES[one["type"]])
        if fits:
            return True
    return False
