"""The messages that the page of symptoms quotes exist in the code."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "operations" / "troubleshooting.md"
QUOTES = [
    line
    for block in re.findall(r"^```text\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


def texts(tree: ast.AST) -> Iterator[str]:
    """Yield the texts of a module, with `…` in place of values."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"%[sd]|\{\w+\}", "…", node.value)


@pytest.fixture(scope="module")
def source() -> str:
    modules = sorted((ROOT / "comms_api").rglob("*.py"))
    return "\n".join(text for module in modules for text in texts(ast.parse(module.read_text())))


@pytest.mark.parametrize("quote", QUOTES)
def test_a_quoted_message_exists(quote: str, source: str) -> None:
    assert quote in source


def test_there_are_quotes() -> None:
    assert len(QUOTES) > 20
