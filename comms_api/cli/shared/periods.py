"""The options that say which part of a list to show, and in which order."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])

_PERIOD = (
    click.option("--since", metavar="TIME", help="Only since this time, such as 2026-12-24T18:00:00Z."),
    click.option("--until", metavar="TIME", help="Only before this time."),
)
_ORDER = click.option("--order", type=click.Choice(["newest", "oldest"]), default="newest", help="Which come first.")


def period_options(function: Function) -> Function:
    """Add the options `--since` and `--until`, which are also the query parameters of lists."""
    for option in reversed(_PERIOD):
        function = option(function)
    return function


def period_and_order_options(function: Function) -> Function:
    """Add the options of a period, and `--order`, which is also a query parameter of lists."""
    return period_options(_ORDER(function))
