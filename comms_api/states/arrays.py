"""Array literals (PostgreSQL manual, Arrays, "Array Input and Output Syntax"), for arrays of thousands of texts."""

from collections.abc import Sequence

_SPECIAL = str.maketrans({'"': r"\"", "\\": r"\\"})


def array_literal(texts: Sequence[str]) -> str:
    """Return the literal of an array; cast to text and then to an array, it equals the array that the driver sends."""
    if not texts:
        return "{}"
    literal = '","'.join(texts)
    if "\\" in literal or literal.count('"') > 2 * (len(texts) - 1):
        literal = '","'.join([one.translate(_SPECIAL) for one in texts])
    return '{"' + literal + '"}'
