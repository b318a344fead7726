"""Read YAML as configuration: checked before it is accepted, and merged in an order that is given."""

from collections.abc import Iterable
from typing import Any

import yaml

from comms_api.errors import Invalid

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
YAML_BYTES_MAXIMUM = 256 * 1024
YAML_SUFFIXES = (".yml", ".yaml")


def is_yaml(name: str) -> bool:
    """Return whether a file of this name must be YAML."""
    return name.endswith(YAML_SUFFIXES)


def read_yaml(name: str, content: bytes) -> Any:
    """Return what a YAML file says; raises `Invalid`, with the line, for what is none, or may grow when it is read.

    Aliases are refused: by them a few hundred bytes can stand for gigabytes.
    """
    if len(content) > YAML_BYTES_MAXIMUM:
        raise Invalid(f"{name}: larger than {YAML_BYTES_MAXIMUM} bytes, the most that is read as YAML")
    try:
        has_aliases = any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(content, Loader=_LOADER))
        document = None if has_aliases else yaml.load(content, Loader=_LOADER)  # noqa: S506 - a safe loader
        write_yaml(document)  # what cannot be written could not be merged
    except Exception as error:  # noqa: BLE001 - the readers of scalars raise whatever they like
        raise Invalid(f"{name}: {' '.join(str(error).split()) or 'not YAML that can be read'}") from None
    if has_aliases:
        raise Invalid(f"{name}: aliases are not supported")
    return document


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
