"""The reference of the command line and of the settings, from the code that reads them."""

import inspect
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

import click
import msgspec

from comms_api.cli.main import comms_api
from comms_api.settings import PREFIX, Settings

COMMANDS_HEAD = """# Commands and options

Every command with its arguments and options, as `--help` shows them. [The command line](../operations/command-line.md)
explains how to use them."""

SETTINGS_HEAD = """# Types of settings

Every setting with its variable in the environment, its allowed values and its default.
[Settings](../operations/settings.md) says what each of them does.

| setting | variable | allowed values | default |
|---|---|---|---|"""

Record = tuple[str, str]


def describe_commands() -> Iterator[str]:
    """Yield the lines of the page about commands; options of more than half of them are there once."""
    yield COMMANDS_HEAD
    contexts = list(_contexts(click.Context(comms_api, info_name="comms-api")))
    counted = Counter(record for context in contexts for record in _records(context))
    common = [record for record, number in counted.items() if number > len(contexts) / 2]
    yield "\n## Common options\n\nMost commands have these options.\n"
    yield from _table(common)
    for context in contexts:
        usage = " ".join([context.command_path, *context.command.collect_usage_pieces(context)])
        words = inspect.cleandoc(context.command.help or "").replace("\b\n", "").replace("<", "\\<")
        yield f"\n## `{context.command_path}`\n\n{words}\n\n    {usage}\n"
        yield from _table([record for record in _records(context) if record not in common])


def _contexts(context: click.Context) -> Iterator[click.Context]:
    """Yield the contexts of all commands that are no groups."""
    command = context.command
    if not isinstance(command, click.Group):
        yield context
        return
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        assert child is not None
        yield from _contexts(click.Context(child, info_name=name, parent=context))


def _records(context: click.Context) -> list[Record]:
    records = (parameter.get_help_record(context) for parameter in context.command.get_params(context))
    return [record for record in records if record and "--help" not in record[0]]


def _table(records: list[Record]) -> Iterator[str]:
    if records:
        yield "| option | meaning |\n|---|---|"
    for spelling, words in records:
        yield f"| `{_cell(spelling)}` | {_cell(words)} |"


def describe_settings() -> Iterator[str]:
    """Yield the lines of the page about settings."""
    yield SETTINGS_HEAD
    kinds = get_type_hints(Settings, include_extras=True)
    for name, default in zip(Settings.__struct_fields__, Settings.__struct_defaults__, strict=True):
        schema = msgspec.json.schema(kinds[name], schema_hook=lambda _kind: {"type": "string"})
        words = str(default).lower() if isinstance(default, bool) else str(default)
        shown = "" if default in (None, "", ()) else f"`{words}`"
        yield f"| `{name}` | `{PREFIX}{name.upper()}` | {_cell(_values(schema))} | {shown} |"


def _values(schema: Mapping[str, Any]) -> str:
    """Return the allowed values in words."""
    if "anyOf" in schema:
        return " or ".join(words for words in map(_values, schema["anyOf"]) if words)
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"a list of: {_values(schema['items'])}"
    kinds = {"string": "text", "integer": "a whole number", "number": "a number", "boolean": "`true`, `false`"}
    bounds = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
    limits = [f"{sign} {schema[bound]:,}" for bound, sign in bounds if bound in schema]
    return ", ".join([kinds.get(schema.get("type", ""), ""), *limits])


def _cell(words: str) -> str:
    return " ".join(words.split()).replace("|", "\\|")
