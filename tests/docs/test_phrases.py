"""The source and the documents are in plain English: no phrase, name or docstring of these tables is in them.

Each table maps a regular expression to what to write instead. To forbid another one, add a line.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import pytest

Table: TypeAlias = Mapping[str, str]
Findings: TypeAlias = Iterator[tuple[int, str, str]]
"""Line number, words, what to write instead."""

PHRASES: Table = {
    r"all the while": "throughout …, while …",
    r"anew": "again",
    r"beside": "during …, next to …, in addition to …",
    r"by (itself|themselves)": "automatically, separately, on its own",
    r"(do|does|did|done) away with": "remove, delete, kill",
    r"so far as|in vain|for good(?=[.,;:)])": "as far as, without success, permanently",
    r"goes on|go on(?! to)": "continues",
    r"hears? of": "receives, learns",
    r"holds? (its|his|their) peace": "does not answer",
    r"(?-i:meanwhile)": "during …, since then, in the meantime",
    r"of now": "the current …",
    r"of (its|their|his|your|our) own(?=[.,;:)\"])": "a separate …",
    r"see to it": "ensure that …",
    r"so many(?! \w+ that)": "at most N, this many, N",
    r"(that|it|they|which) (is|are) (none|ones)(?=[.,;:]| too)": "is not a …, includes …",
    r"(that|which) nobody has(?! \w+ed)": "unused, unknown",
    r"that one('s| has| was| is)": "name the thing",
    r"(a|the|one) thing that": "name the thing",
    r"those (who|whose|whom|of (these|those))": "the agents that …, the orders of …: name the thing",
    r"what is of": "the rows of …: name the thing",
    r"(?-i:Whom)": "name the thing: the recipients of …",
    r"(is|are|was|were) over(?! [`\d]| (the|a|an|half))": "has expired, has ended",
    r"(is|are|was|were|been) gone": "has ended, was deleted, does not answer",
    r"(is|are|was|were|be|been) told(?! (apart|from))": "receives, learns, is sent, is reported",
    r"(is|are|was|were) wanted": "is requested, is needed",
}
"""Words in any file, in any case, also across a line break."""

NAMES: Table = {
    r"them|those|these|its?|whom|stuff|things?": "a name that says what the value is",
    r"asked|given|own|rest|said|told|wanted": "the answer, the message, the arguments, the payload: what the value is",
    r"how|over|what|which|why": "the mode, the end, the kind, the index, the reason: what the value is",
}
"""Names without leading underscores, except declared fields of classes: those are the protocol's."""

DOCSTRINGS: Table = {
    r"__init__: Take\b": "nothing: the signature says it, or the docstring of the class",
    r"\w*: (How|What|When|Where|Which|Whom?|Whose|Why)\b": "an imperative, or a noun: the time …, the number of …",
}
"""Beginnings of `NAME: SUMMARY`, for the docstrings of functions, classes, modules and (without a name) variables."""

ROOT = Path(__file__).parents[2]
FOLDERS = (".ci", "bench", "certs", "comms_api", "deploy", "docs", "examples", "migrations", "tests")
SUFFIXES = {"", ".cfg", ".conf", ".md", ".py", ".service", ".socket", ".toml", ".yaml", ".yml"}
FILES = [path for path in ROOT.iterdir() if path.name == "Makefile" or path.suffix in {".ini", ".md", ".toml"}]
FILES += [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
TEXTS = {path: path.read_text() for path in FILES if path.is_file() and path != Path(__file__)}
TREES = {path: ast.parse(text) for path, text in TEXTS.items() if path.suffix == ".py"}


def phrases_in(text: str) -> Findings:
    patterns = [(re.compile(rf"\b(?:{phrase})(?!\w)", re.IGNORECASE), instead) for phrase, instead in PHRASES.items()]
    for number, (line, following) in enumerate(pairwise([*text.splitlines(), ""]), 1):
        joined = f"{line} {following.lstrip(' #')}"
        for pattern, instead in patterns:
            yield from ((number, match[0], instead) for match in pattern.finditer(joined) if match.start() < len(line))


def names_in(tree: ast.AST) -> Findings:
    classes = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    fields = {id(node.target) for found in classes for node in found.body if isinstance(node, ast.AnnAssign)}
    for node in (node for node in ast.walk(tree) if id(node) not in fields):
        match node:
            case (
                ast.Name(id=name, ctx=ast.Store())
                | ast.Attribute(attr=name, ctx=ast.Store())
                | ast.arg(arg=name)
                | ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
            ):
                yield from look_up(NAMES, node.lineno, name.strip("_"), "$")


def docstrings_in(tree: ast.AST) -> Findings:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for described, statement in pairwise([node, *node.body]):
                match statement:
                    case ast.Expr(ast.Constant(str(words))):
                        name = getattr(described, "name", "")
                        yield from look_up(DOCSTRINGS, statement.lineno, f"{name}: {words.strip()}")


def look_up(table: Table, line: int, words: str, end: str = "") -> Findings:
    return ((line, words, instead) for start, instead in table.items() if re.match(f"(?:{start}){end}", words))


def report(findings: Mapping[Path, Findings]) -> str:
    return "\n".join(
        f"{path.relative_to(ROOT)}:{line}: {words!r}; write: {instead}"
        for path, found in findings.items()
        for line, words, instead in found
    )


def test_no_file_has_a_phrase_that_must_be_read_twice() -> None:
    faults = report({path: phrases_in(text) for path, text in TEXTS.items()})
    assert not faults, faults


def test_every_name_says_what_its_value_is() -> None:
    faults = report({path: names_in(tree) for path, tree in TREES.items()})
    assert not faults, faults


def test_no_docstring_begins_without_saying_anything() -> None:
    faults = report({path: docstrings_in(tree) for path, tree in TREES.items()})
    assert not faults, faults


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("# It waits\n# all the\n# while.\n", [2]),
        ("# Whom it is for\n# and from whom\n", [1]),
        ('"""All the while."""\nall_the_while = 0\n', [1]),
        ("x = 1\ndef f(them, *, those=0): x._stuff = them\n", [2, 2, 2]),
        ("class A:\n    told: int\n    def told(self): ...\n", [3]),
        ("class A:\n    def __init__(self, engine):\n        '''Take the engine.'''\n", [3]),
        ("A = 1\n'''How long to wait.'''\n# Take meanwhile\n# these. Meanwhile, wait.\n", [3, 2]),
    ],
)
def test_a_forbidden_phrase_name_or_docstring_is_found_at_its_line(source: str, lines: list[int]) -> None:
    tree = ast.parse(source)
    found = [*phrases_in(source), *names_in(tree), *docstrings_in(tree)]
    assert [line for line, _, _ in found] == lines
