"""Show an API's OpenAPI description in YAML, and as one HTML page without scripts or resources of other hosts.

Rendering takes up to 0.3 s, so a guard renders both in a thread on the first request.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from html import escape
from threading import Event
from typing import Any

from litestar import Request
from litestar.handlers import BaseRouteHandler
from litestar.openapi.plugins import OpenAPIRenderPlugin, YamlRenderPlugin

from comms_api.fairness.executors import BoundedExecutor
from comms_api.http.authentication import Guard, client_of
from comms_api.http.description.completion import describe

CALLS_MAXIMUM = 64
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
body { overflow-wrap: anywhere; }
h2 { border-top: 1px solid; font-size: 1.4rem; margin-top: 3rem; padding-top: 1rem; }
h3 { font-size: 1.05rem; margin-top: 2rem; }
p, td { white-space: pre-line; }
table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid #8888; padding: .25rem .5rem; text-align: left; vertical-align: top; }
pre { overflow-x: auto; }
"""

_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; frame-ancestors 'none'"
"""Allows only the page's own style."""


class DescriptionPage(OpenAPIRenderPlugin):
    """Serves the page at the root of the description's path."""

    def __init__(self) -> None:
        super().__init__(path="/")
        self._page: bytes | None = None

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """Return the page; the description of a running API does not change."""
        if self._page is None:
            self._page = "\n".join(_page(json.loads(self.render_json(request, openapi_schema)))).encode()
        return self._page


class DescriptionYaml(YamlRenderPlugin):
    """Serves the description in YAML."""

    def __init__(self) -> None:
        super().__init__()
        self._text: bytes | None = None

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """Return the text; the description of a running API does not change."""
        if self._text is None:
            self._text = super().render(request, openapi_schema)
        return self._text


def description_guard(plugins: Sequence[OpenAPIRenderPlugin]) -> Guard:
    """Return a guard that renders the description once, before its first request; the plugins keep the results."""
    thread, is_ready = BoundedExecutor("API description", 1, CALLS_MAXIMUM), Event()

    def make(request: Request[Any, Any, Any]) -> None:
        if not is_ready.is_set():
            description = describe(request.app)
            for plugin in plugins:
                plugin.render(request, description)
            is_ready.set()

    async def prepare(connection: Any, _handler: BaseRouteHandler) -> None:
        if not is_ready.is_set():
            await thread.run(client_of(connection.scope), partial(make, connection))

    return prepare


def _page(description: Mapping[str, Any]) -> Iterator[str]:
    title = escape(description["info"]["title"])
    yield f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<style>{STYLE}</style></head><body><h1>{title} {escape(description['info']['version'])}</h1>"
    yield '<p>For programs: <a href="/schema/openapi.json">openapi.json</a>.</p>'
    for group in description["tags"]:
        yield f'<h2 id="{group["name"]}">{group["name"]}</h2><p>{escape(group["description"])}</p>'
        for path, operations in sorted(description["paths"].items()):
            for method, operation in operations.items():
                if group["name"] in operation["tags"]:
                    yield from _operation(f"{method.upper()} {path}", operation, description["components"])
    yield "<h2>Structures</h2>"
    for name, schema in sorted(description["components"]["schemas"].items()):
        yield f'<details id="{escape(name)}"><summary>{escape(name)}</summary>{_json(schema)}</details>'
    yield "</body></html>"


def _operation(name: str, operation: Mapping[str, Any], components: Mapping[str, Any]) -> Iterator[str]:
    yield f"<h3><code>{escape(name)}</code></h3><p>{escape(operation['description'])}</p>"
    if parameters := operation.get("parameters"):
        yield "<table><tr><th>parameter</th><th>in</th><th>type</th><th></th></tr>"
        for parameter in parameters:
            shown = (parameter["name"], parameter["in"], json.dumps(parameter.get("schema", {})))
            yield _row(*shown, "required" if parameter.get("required") else "", parameter["description"])
        yield "</table>"
    if body := operation.get("requestBody"):
        yield from _content("body", body)
    for status, answer in operation["responses"].items():
        described = components["responses"][answer["$ref"].rpartition("/")[2]] if "$ref" in answer else answer
        yield from _content(f"{status} {described['description']}", described)


def _content(summary: str, message: Mapping[str, Any]) -> Iterator[str]:
    yield f"<details><summary>{escape(summary)}</summary>"
    for media_type, media in message.get("content", {}).items():
        example = media["example"]
        shown = f"<pre>{escape(example)}</pre>" if isinstance(example, str) else _json(example)
        yield f"<p>An example of <code>{escape(media_type)}</code>:</p>{shown}{_json(media['schema'])}"
    yield "</details>"


def _row(name: str, where: str, schema: str, *notes: str) -> str:
    cells = (f"<code>{escape(name)}</code>", escape(where), f"<code>{escape(schema)}</code>")
    return f"<tr><td>{'</td><td>'.join(cells)}</td><td>{escape(' '.join(filter(None, notes)))}</td></tr>"


def _json(value: object) -> str:
    return f"<pre>{escape(json.dumps(value, indent=2, ensure_ascii=False))}</pre>"
