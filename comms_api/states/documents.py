"""JSON objects into which others are merged: each is read once and written once, however many merges there are."""

from collections.abc import Hashable, Sequence
from typing import TypeAlias, Union

import msgspec

from comms_api.fairness.slices import Steps

MERGE_DEPTH_MAXIMUM = 32
"""Deeper objects are replaced whole."""

STEP_BYTES = 32 * 1024
STEP_MEMBERS = 4 * 1024
"""A merge yields after reading a document larger than this, and after this many members."""

_MEMBER_BYTES = 4
"""Two quotes, a colon and a comma."""

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NONE: dict[str, msgspec.Raw] = {}
_Members: TypeAlias = dict[str, Union[msgspec.Raw, "Document"]]


class Document:
    """A JSON object, read at its first merge; values stay bytes, so numbers and escapes keep their form."""

    __slots__ = ("_members", "_written", "size")

    def __init__(self, written: bytes) -> None:
        self._written: bytes | None = written
        self._members: _Members | None = None
        self.size = len(written)
        """In bytes; escapes in names that were added make it somewhat more."""

    def __bytes__(self) -> bytes:
        """Return the object in its current form."""
        if self._written is None:
            members = (self._members or {}).items()
            self._written = msgspec.json.encode(
                {
                    name: value if isinstance(value, msgspec.Raw) else msgspec.Raw(bytes(value))
                    for name, value in members
                }
            )
        return self._written

    def merge(self, partial: bytes, client: Hashable, depth: int = MERGE_DEPTH_MAXIMUM) -> Steps["Merge"]:
        """Compute, for a client, the effect of setting the members of `partial`, objects member by member.

        `partial` replaces the document if it changes every member, or if either is nested too deeply to be read.
        """
        both = yield from self._read_both(partial, client)
        if both is None:
            return Merge(self, len(partial) - self.size, partial)
        members, new = both
        is_all = members.keys() <= new.keys()
        changed: dict[str, msgspec.Raw] = {}
        inner: list[Merge] = []
        growth = 0
        for number, (name, value) in enumerate(new.items(), 1):
            if number % STEP_MEMBERS == 0:
                yield client
            old = members.get(name)
            if old == value:
                continue
            nested = None if old is None else _nested(members, name, old, value, depth)
            within = (yield from nested.merge(bytes(value), client, depth - 1)) if nested is not None else None
            if within is None or within.replacement is not None:
                changed[name] = value
                growth += _growth(name, old if nested is None else nested, value)
            else:
                inner.append(within)
                growth += within.growth
        if is_all and changed and not inner:
            return Merge(self, len(partial) - self.size, partial)
        return Merge(self, growth, None, changed, [within for within in inner if within.changes])

    def _read_both(self, partial: bytes, client: Hashable) -> Steps[tuple[_Members, dict[str, msgspec.Raw]] | None]:
        """Return the members of the document and of `partial`, or None if either is unreadable."""
        try:
            members = self._read()
            if self.size > STEP_BYTES:
                yield client
            new = _OBJECT.decode(partial)
        except RecursionError:
            return None
        if len(partial) > STEP_BYTES:
            yield client
        return members, new

    def become(self, written: bytes) -> None:
        """Be replaced."""
        self._written, self._members, self.size = written, None, len(written)

    def change(self, members: dict[str, msgspec.Raw], growth: int) -> None:
        """Set members; `growth` is the number of bytes that this adds."""
        self._read().update(members)
        self._written, self.size = None, self.size + growth

    def _read(self) -> _Members:
        if self._members is None:
            self._members = {**_OBJECT.decode(bytes(self))}
        return self._members


class Merge:
    """The effect of a merge on a document: its replacement, or the members to set and the merges within members."""

    __slots__ = ("_document", "_inner", "_members", "changes", "growth", "replacement")

    def __init__(
        self,
        document: Document,
        growth: int,
        replacement: bytes | None,
        members: dict[str, msgspec.Raw] = _NONE,
        inner: Sequence["Merge"] = (),
    ) -> None:
        self._document, self._members, self._inner = document, members, inner
        self.growth, self.replacement = growth, replacement
        self.changes = replacement is not None or bool(members or inner)

    def apply(self) -> None:
        """Change the document."""
        if self.replacement is not None:
            self._document.become(self.replacement)
            return
        for inner in self._inner:
            inner.apply()
        if self.changes:
            self._document.change(self._members, self.growth)


def _nested(
    members: _Members, name: str, old: msgspec.Raw | Document, value: msgspec.Raw, depth: int
) -> Document | None:
    """Return the member as the document to merge `value` into, or None if either is not an object."""
    if depth == 1 or not bytes(value).startswith(b"{"):
        return None
    if isinstance(old, msgspec.Raw):
        before = bytes(old)
        if not before.startswith(b"{"):
            return None
        old = members[name] = Document(before)
    return old


def _growth(name: str, old: msgspec.Raw | Document | None, value: msgspec.Raw) -> int:
    if old is None:
        return len(name) + len(value) + _MEMBER_BYTES
    return len(value) - (old.size if isinstance(old, Document) else len(old))
