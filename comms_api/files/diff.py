"""Compare two versions of a file, line by line, in the unified format of diff(1).

The comparison is E. Myers' greedy one ("An O(ND) Difference Algorithm and Its Variations", 1986). Its cost grows with
the number of edits times the number of lines, so both are limited; beyond the limits, everything between the first and
the last difference counts as replaced.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

EDITS_MAXIMUM = 300
LINES_MAXIMUM = 10_000
"""The most lines between the first and the last difference, of both versions together."""

CONTEXT_LINES = 3
NO_NEWLINE = "\n\\ No newline at end of file\n"

Edit: TypeAlias = tuple[Literal[" ", "-", "+"], str]
"""A line that is kept, deleted or inserted."""


def unified_diff(before: tuple[str, bytes], after: tuple[str, bytes]) -> str:
    """Return the difference of two versions, given by label and content; an empty text if there is none."""
    (old_label, old), (new_label, new) = before, after
    try:
        texts = old.decode(), new.decode()
    except UnicodeDecodeError:
        return "" if old == new else f"Binary files {old_label} and {new_label} differ\n"
    edits = find_edits(*map(_lines, texts))
    hunks = "".join(_hunks(edits))
    return f"--- {old_label}\n+++ {new_label}\n{hunks}" if hunks else ""


def _lines(text: str) -> list[str]:
    """Return the lines with their line feeds."""
    *complete, last = text.split("\n")
    return [f"{line}\n" for line in complete] + ([last] if last else [])


def find_edits(old: Sequence[str], new: Sequence[str]) -> list[Edit]:
    """Return the lines of both versions; the deleted and inserted ones are few, if not always as few as possible."""
    start, stop = 0, 0
    shortest = min(len(old), len(new))
    while start < shortest and old[start] == new[start]:
        start += 1
    while stop < shortest - start and old[-1 - stop] == new[-1 - stop]:
        stop += 1
    middle = _find_edits(old[start : len(old) - stop], new[start : len(new) - stop])
    return [*_all(" ", old[:start]), *middle, *_all(" ", old[len(old) - stop :])]


def _all(tag: Literal[" ", "-", "+"], lines: Sequence[str]) -> list[Edit]:
    return [(tag, line) for line in lines]


def _find_edits(old: Sequence[str], new: Sequence[str]) -> list[Edit]:
    trace = _trace(old, new) if len(old) + len(new) <= LINES_MAXIMUM else None
    if trace is None:
        return [*_all("-", old), *_all("+", new)]
    return list(_backtrack(old, new, trace))[::-1]


def _trace(old: Sequence[str], new: Sequence[str]) -> list[dict[int, int]] | None:
    """Return, for each number of edits, how far each diagonal was reached before; None if too many are needed."""
    numbers: dict[str, int] = {}  # comparing numbers costs the same for lines of any length
    olds, news = ([numbers.setdefault(line, len(numbers)) for line in lines] for lines in (old, new))
    reached, trace = {1: 0}, []
    for edits in range(EDITS_MAXIMUM + 1):
        trace.append(reached.copy())
        for diagonal in range(-edits, edits + 1, 2):
            x = _advance(reached, edits, diagonal)
            while x < len(olds) and x - diagonal < len(news) and olds[x] == news[x - diagonal]:
                x += 1
            reached[diagonal] = x
            if diagonal == len(olds) - len(news) and x >= len(olds):
                return trace
    return None


def _advance(reached: dict[int, int], edits: int, diagonal: int) -> int:
    if _is_insertion(reached, edits, diagonal):
        return reached[diagonal + 1]
    return reached[diagonal - 1] + 1


def _is_insertion(reached: dict[int, int], edits: int, diagonal: int) -> bool:
    return diagonal == -edits or (diagonal != edits and reached[diagonal - 1] < reached[diagonal + 1])


def _backtrack(old: Sequence[str], new: Sequence[str], trace: Sequence[dict[int, int]]) -> Iterator[Edit]:
    """Yield the edits, the last one first."""
    x, y = len(old), len(new)
    for edits in range(len(trace) - 1, -1, -1):
        reached = trace[edits]
        is_insertion = _is_insertion(reached, edits, x - y)
        diagonal = x - y + (1 if is_insertion else -1)
        previous_x = reached[diagonal]
        while x > previous_x and y > previous_x - diagonal:
            x, y = x - 1, y - 1
            yield " ", old[x]
        if edits and is_insertion:
            y -= 1
            yield "+", new[y]
        elif edits:
            x -= 1
            yield "-", old[x]


def _hunks(edits: Sequence[Edit]) -> Iterator[str]:
    old_line, new_line, done = 0, 0, 0
    for start, end in _hunk_ranges(edits):
        old_line += sum(tag != "+" for tag, _ in edits[done:start])
        new_line += sum(tag != "-" for tag, _ in edits[done:start])
        hunk, done = edits[start:end], end
        old_count, new_count = (sum(tag != other for tag, _ in hunk) for other in "+-")
        yield f"@@ -{_range(old_line, old_count)} +{_range(new_line, new_count)} @@\n"
        yield from (tag + (line if line.endswith("\n") else line + NO_NEWLINE) for tag, line in hunk)
        old_line, new_line = old_line + old_count, new_line + new_count


def _hunk_ranges(edits: Sequence[Edit]) -> list[tuple[int, int]]:
    """Return the ranges of changed lines with their context; ranges that touch are one."""
    ranges: list[tuple[int, int]] = []
    for index, (tag, _) in enumerate(edits):
        if tag == " ":
            continue
        start, end = max(0, index - CONTEXT_LINES), min(len(edits), index + CONTEXT_LINES + 1)
        if ranges and start <= ranges[-1][1]:
            ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((start, end))
    return ranges


def _range(line: int, count: int) -> str:
    """Return a range of lines; an empty one is after the line that it names."""
    return f"{line + (count > 0)},{count}"
