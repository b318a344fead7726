"""Add to an API's OpenAPI description what Litestar cannot know: bodies of raw routes, words and examples."""

import dataclasses
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import msgspec
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute

from comms_api.http.description.examples import REFERENCE, Examples, problem_example
from comms_api.http.description.operations import BODY, REFUSALS, Body, describe_package
from comms_api.http.description.parameters import describe_parameter
from comms_api.http.description.samples import ANSWERS, TEXTS
from comms_api.http.problems import MEDIA_TYPE

Node = MutableMapping[str, Any]

SENTENCES = {
    "200": "Success.",
    "201": "Created.",
    "202": "Accepted; it happens soon.",
    "204": "Success; the answer is empty.",
}
_LITESTAR_SENTENCES = ("Request fulfilled", "Document created", "Request accepted")


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation of a description, and the route that performs it."""

    path: str
    handler: HTTPRouteHandler
    description: Node

    @property
    def where(self) -> str:
        """The place of the operation, for an error."""
        return f"{self.handler.handler_name} ({self.path})"


def describe(app: Litestar) -> dict[str, Any]:
    """Return the complete description; Litestar caches the result, and repeating this changes nothing."""
    described: Any = app.plugins.get("OpenAPIPlugin")
    description: dict[str, Any] = described.provide_openapi_schema()
    operations = list(_operations(app, description))
    schemas = description["components"]["schemas"]
    for operation in operations:
        _describe_body(operation, schemas)
    examples = Examples(schemas)
    description["components"]["responses"] = {_response_name(status): _refusal(status) for status in REFUSALS}
    for operation in operations:
        _describe_parameters(operation)
        _describe_answers(operation, examples)
    for schema in _schemas_in(description):
        if "pattern" in schema:
            schema["pattern"] = _portable(schema["pattern"])
    packages = sorted({tag for operation in operations for tag in operation.description["tags"]})
    description["tags"] = [{"name": package, "description": describe_package(package)} for package in packages]
    return description


def _schemas_in(value: Any) -> Iterator[Node]:
    """Yield every object in a description, schemas among them."""
    if isinstance(value, dict):
        yield value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _schemas_in(one)


def _portable(pattern: str) -> str:
    """Return a pattern of Python as one of ECMA-262, which JSON Schema uses."""
    return pattern.replace(r"\A", "^").replace(r"\Z", "$").replace(r"\0", r"\u0000")


def _operations(app: Litestar, description: Node) -> Iterator[Operation]:
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for method, (handler, _) in route.route_handler_map.items():
                methods = description["paths"].get(route.path_format or "/", {})
                if method.lower() in methods and handler.resolve_include_in_schema():
                    yield Operation(route.path_format, handler, methods[method.lower()])


def _describe_body(operation: Operation, schemas: Node) -> None:
    """Describe the body of a route that decodes it itself, and show an example of any body."""
    if body := operation.handler.opt.get(BODY):
        media = {"schema": _body_schema(body, schemas)}
        operation.description["requestBody"] = {"required": body.is_required, "content": {body.media_type: media}}
    for media in operation.description.get("requestBody", {}).get("content", {}).values():
        _show_example(media, operation, Examples(schemas), TEXTS)


def _body_schema(body: Body, schemas: Node) -> Node:
    """Return the schema of a body, and add the structures in it that no other route has."""
    if not body.types:
        return {"type": "string"}
    found, components = msgspec.json.schema_components(body.types, ref_template=REFERENCE + "{name}")
    schemas.update({name: one for name, one in components.items() if name not in schemas})
    return found[0] if len(found) == 1 else {"anyOf": list(found)}


def _describe_parameters(operation: Operation) -> None:
    for parameter in operation.description.get("parameters", ()):
        words = parameter.get("description") or describe_parameter(operation.path, parameter["name"])
        parameter["description"] = words


def _describe_answers(operation: Operation, examples: Examples) -> None:
    answers = operation.description["responses"]
    for status, answer in sorted(answers.items()):
        if MEDIA_TYPE in answer.get("content", {}):
            _describe_refusal(answers, status, answer)
            continue
        if answer.get("description", "").startswith(_LITESTAR_SENTENCES):
            answer["description"] = SENTENCES[status]
        for media in answer.get("content", {}).values():
            _show_example(media, operation, examples, {**ANSWERS, **TEXTS})


def _describe_refusal(answers: Node, status: str, answer: Node) -> None:
    """Refer to the common answer of this status, unless the route describes its own."""
    sentence = answer["description"]
    if sentence == REFUSALS.get(int(status)):
        answers[status] = {"$ref": f"#/components/responses/{_response_name(int(status))}"}
    else:
        answer["content"][MEDIA_TYPE]["example"] = problem_example(int(status), sentence)


def _refusal(status: int) -> Node:
    example = problem_example(status, REFUSALS[status])
    schema = {"$ref": f"{REFERENCE}Problem"}
    return {"description": REFUSALS[status], "content": {MEDIA_TYPE: {"schema": schema, "example": example}}}


def _response_name(status: int) -> str:
    return f"Problem{status}"


def _show_example(media: Node, operation: Operation, examples: Examples, samples: Mapping[str, Any]) -> None:
    name = operation.handler.handler_name
    media["example"] = samples[name] if name in samples else examples.of(media["schema"], operation.where)
