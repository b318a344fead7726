"""Read YAML as configuration: checked before it is accepted, and merged in an order that is given."""

from collections.abc import Iterable
from typing import Any

import yaml

from comms_api.errors import Invalid

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
ALIASES_MAXIMUM = 100
YAML_SUFFIXES = (".yml", ".yaml")


def is_yaml(name: str) -> bool:
    """Return whether a file of this name must be YAML."""
    return name.endswith(YAML_SUFFIXES)


def read_yaml(name: str, content: bytes) -> Any:
    """Return what a YAML file says; raises `Invalid`, with the line, for what is none or uses too many aliases."""
    try:
        events = yaml.parse(content, Loader=_LOADER)
        if sum(isinstance(event, yaml.AliasEvent) for event in events) > ALIASES_MAXIMUM:
            raise Invalid(f"{name}: more than {ALIASES_MAXIMUM} aliases")
        return yaml.load(content, Loader=_LOADER)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise Invalid(f"{name}: {' '.join(str(error).split())}") from None


def merge(documents: Iterable[Any]) -> Any:
    """Return documents as one, the later having the last word: mappings merge key by key, all else is replaced."""
    merged: Any = {}
    for document in documents:
        merged = _merged(merged, document)
    return merged


def _merged(below: Any, above: Any) -> Any:
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return below if above is None else above
    shared = {key: _merged(below[key], above[key]) for key in below.keys() & above.keys()}
    return below | above | shared


def write_yaml(document: Any) -> bytes:
    """Return a document as YAML, keys in order, so that the same document is the same bytes."""
    return yaml.safe_dump(document, sort_keys=True, allow_unicode=True).encode()
