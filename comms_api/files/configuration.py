"""Group files in YAML: check them when they are stored, and merge them without changing the text of a scalar.

YAML 1.1 reads `22:30` as 1350 and `0644` as 420, YAML 1.2 reads a text and 644, and agents have readers of both kinds.
So a document is made of its parse events, not of values: maps, lists, and scalars with the text, tag and style they
were written with. Keys are compared by their text.
"""

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import msgspec
import yaml

from comms_api.errors import Invalid

YAML_BYTES_MAXIMUM = 256 * 1024
YAML_SUFFIXES = (".yml", ".yaml")
DEPTH_MAXIMUM = 50
"""The maximum depth of maps and lists. libyaml, which many readers use, recurses and crashes on thousands."""

NUMBER_CHARACTERS_MAXIMUM = 256
"""The longest scalar that is not text: readers take quadratic time for long numbers."""

SHOWN_CHARACTERS_MAXIMUM = 40

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_LINE_CHARACTERS_MAXIMUM = 2**31 - 1
_TAG = "tag:yaml.org,2002:"
_TEXT_TAGS = {f"{_TAG}str", f"{_TAG}binary"}
_NULLS = {"~", "null", "Null", "NULL"}


class Scalar(msgspec.Struct, frozen=True):
    """A scalar in its original form; the style is its first character, empty for a plain scalar."""

    text: str
    tag: str | None = None
    style: str = ""

    @property
    def is_null(self) -> bool:
        """Whether every reader reads it as null."""
        return self.tag == f"{_TAG}null" or (self.tag is None and not self.style and self.text in _NULLS)


Node: TypeAlias = "Scalar | list[Node] | Map"
Map: TypeAlias = "dict[str, tuple[Scalar, Node]]"
"""Each key in its original form and its value, by the key's text."""


def is_yaml(name: str) -> bool:
    """Return whether a file of this name must be YAML."""
    return name.endswith(YAML_SUFFIXES)


def read_yaml(name: str, content: bytes) -> Map:
    """Return the document of a YAML file; raises `Invalid`, with the line and what to do.

    It refuses constructs that some reader of YAML 1.1 or 1.2 cannot read or reads differently: aliases, merge keys,
    duplicate keys, tags of programming languages, a top that is not a map.
    """
    if len(content) > YAML_BYTES_MAXIMUM:
        raise Invalid(f"{name}: larger than {YAML_BYTES_MAXIMUM} bytes, the most that is read as YAML")
    try:
        return _Reader(name, content).read()
    except yaml.YAMLError as error:
        raise Invalid(f"{name}: {_explain(error)}") from None


def _explain(error: yaml.YAMLError) -> str:
    """Return what the parser did not understand, and where."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).replace('in "<byte string>", ', "at ").split()) or "not YAML that can be read"
    context = f" {error.context} that begins at {_place(error.context_mark)}" if error.context_mark else ""
    return f"{_place(error.problem_mark)}: {error.problem}{context}"


def _place(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"


class _Reader:
    def __init__(self, name: str, content: bytes) -> None:
        self._name = name
        self._events: Iterator[Any] = yaml.parse(content, Loader=_LOADER)
        self._values: Any = yaml.SafeLoader("")

    def read(self) -> Map:
        next(self._events)  # the start of the stream
        start = next(self._events)
        top = next(self._events) if isinstance(start, yaml.DocumentStartEvent) else start
        if not isinstance(top, yaml.MappingStartEvent):
            raise self._fault(top, "the top must be a map, such as `key: value`; write {} for an empty configuration")
        document = self._read_map(top, 1)
        next(self._events)  # the end of the document
        if isinstance(another := next(self._events), yaml.DocumentStartEvent):
            raise self._fault(another, "a second document begins; put each document into its own file")
        return document

    def _read_node(self, event: Any, depth: int) -> Node:
        if isinstance(event, yaml.AliasEvent):
            raise self._fault(event, "aliases (*) are not supported; write the value out")
        if isinstance(event, yaml.ScalarEvent):
            return self._read_scalar(event)
        is_map = isinstance(event, yaml.MappingStartEvent)
        return self._read_map(event, depth) if is_map else self._read_list(event, depth)

    def _read_list(self, start: Any, depth: int) -> list[Node]:
        self._check_collection(start, depth)
        items = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._read_node(event, depth + 1))
        return items

    def _read_map(self, start: Any, depth: int) -> Map:
        self._check_collection(start, depth)
        entries: Map = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self._fault(event, "a key must be a scalar")
            if event.value == "<<" and event.implicit[0]:
                raise self._fault(event, "merge keys (<<) are not supported; write the members out")
            key = self._read_scalar(event)
            if key.text in entries:
                raise self._fault(event, f"duplicate key {_shown(key.text)}; remove one of the two")
            entries[key.text] = key, self._read_node(next(self._events), depth + 1)
        return entries

    def _check_collection(self, start: Any, depth: int) -> None:
        if depth > DEPTH_MAXIMUM:
            raise self._fault(start, f"nested more than {DEPTH_MAXIMUM} deep; move parts up")
        kind = "map" if isinstance(start, yaml.MappingStartEvent) else "seq"
        if start.tag not in {None, _TAG + kind}:
            raise self._fault(start, f"the tag {_shown(start.tag)} is not supported; leave it out")

    def _read_scalar(self, event: Any) -> Scalar:
        self._check_value(event)
        style = "|" if event.style == ">" else event.style or ""
        text = "null" if not (event.value or event.tag or style) else event.value
        return Scalar(text, event.tag, style)

    def _check_value(self, event: Any) -> None:
        """Refuse scalars that readers of YAML 1.1 fail on, such as a 13th month or the tag of a Python object."""
        tag = event.tag or self._values.resolve(yaml.ScalarNode, event.value, event.implicit)
        if tag == f"{_TAG}str":
            return
        kind = _shown(tag.removeprefix(_TAG))
        sentence = f"{_shown(event.value)} is not a valid {kind}; write it in quotes and without a tag to make it text"
        if tag not in _TEXT_TAGS and len(event.value) > NUMBER_CHARACTERS_MAXIMUM:
            raise self._fault(event, sentence)
        try:
            self._values.construct_document(yaml.ScalarNode(tag, event.value))
        except Exception:  # noqa: BLE001 - PyYAML's constructors raise whatever the value makes them raise
            raise self._fault(event, sentence) from None

    def _fault(self, event: Any, sentence: str) -> Invalid:
        return Invalid(f"{self._name}: line {event.start_mark.line + 1}: {sentence}")


def _shown(text: str) -> str:
    return repr(text[:SHOWN_CHARACTERS_MAXIMUM])


def merge_files(files: Iterable[tuple[str, bytes]]) -> bytes:
    """Merge files, given by name and content."""
    return write_yaml(merge(read_yaml(name, content) for name, content in files))


def merge(documents: Iterable[Map]) -> Map:
    """Merge documents; later ones win. Maps merge key by key, all else is replaced.

    A null replaces nothing.
    """
    merged: Map = {}
    for document in documents:
        merged = _merge_maps(merged, document)
    return merged


def _merge_maps(below: Map, above: Map) -> Map:
    shared = {text: (above[text][0], _merge_nodes(below[text][1], above[text][1])) for text in below if text in above}
    return below | above | shared


def _merge_nodes(below: Node, above: Node) -> Node:
    if isinstance(below, dict) and isinstance(above, dict):
        return _merge_maps(below, above)
    return below if isinstance(above, Scalar) and above.is_null else above


def write_yaml(document: Map) -> bytes:
    """Return a document as YAML; the same document is always the same bytes."""
    text: str = yaml.emit(_events(document), Dumper=_DUMPER, width=_LINE_CHARACTERS_MAXIMUM, allow_unicode=True)
    return text.encode()


def _events(document: Map) -> Iterator[yaml.Event]:
    yield yaml.StreamStartEvent()
    yield yaml.DocumentStartEvent(explicit=False)
    yield from _node_events(document)
    yield yaml.DocumentEndEvent(explicit=False)
    yield yaml.StreamEndEvent()


def _node_events(node: Node) -> Iterator[yaml.Event]:
    """Yield the events of a node, with lists and maps in block style, where every plain scalar is valid."""
    if isinstance(node, Scalar):
        has_no_tag = node.tag is None
        yield yaml.ScalarEvent(None, node.tag, (has_no_tag, has_no_tag), node.text, style=node.style)
    elif isinstance(node, list):
        yield yaml.SequenceStartEvent(None, None, implicit=True, flow_style=False)
        for item in node:
            yield from _node_events(item)
        yield yaml.SequenceEndEvent()
    else:
        yield yaml.MappingStartEvent(None, None, implicit=True, flow_style=False)
        for key, value in node.values():
            yield from _node_events(key)
            yield from _node_events(value)
        yield yaml.MappingEndEvent()
