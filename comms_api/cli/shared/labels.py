"""Labels of agents on the command line."""

from collections.abc import Iterable

import click


def read_labels(texts: Iterable[str]) -> dict[str, str]:
    """Return labels written as KEY:VALUE; raises `BadParameter` for any other text."""
    pairs = [text.partition(":") for text in texts]
    for key, colon, _ in pairs:
        if not (key and colon):
            raise click.BadParameter(f"{key!r} does not have the form KEY:VALUE")
    return {key: value for key, _, value in pairs}
