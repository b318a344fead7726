"""Commands that use the management API: they return content, which is printed for people or for programs."""

import sys
import time
from collections.abc import Callable, Iterator
from functools import wraps
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import quote

import click
import msgspec

from comms_api.cli.shared.connection import SERVER_OPTIONS, Connection
from comms_api.cli.shared.output import OUTPUT_OPTIONS, Form, JsonObject, Notice, say
from comms_api.cli.shared.progress import count_items
from comms_api.cli.shared.views import View
from comms_api.errors import ConfigurationError, Unavailable
from comms_api.management_client.client import ManagementClient
from comms_api.text.printable import is_name

Values = TypeVar("Values", bound=msgspec.Struct)

NOUN = {"auto_envvar_prefix": "COMMS_CLI", "show_default": True}
"""The context settings of every group of commands."""

PAGE_MAXIMUM = 1_000
WATCH_SECONDS = 2.0
INTERRUPTED = 130

_LIST_OPTIONS = (
    click.Option(["--limit"], type=click.IntRange(min=1), default=100, help="Maximum number of items."),
    click.Option(["--all", "is_unlimited"], is_flag=True, help="Show every item."),
)
_WATCH_OPTION = click.Option(
    ["--watch", "is_watching"], is_flag=True, help=f"Show it again every {WATCH_SECONDS:g} seconds until Ctrl-C."
)


class Listing(msgspec.Struct, frozen=True):
    """The content of a command that shows a list: `--limit` and `--all` say how much of it."""

    path: str
    query: JsonObject
    page_maximum: int = PAGE_MAXIMUM


class Outcome(msgspec.Struct, frozen=True):
    """Content, and the exit code of the command."""

    content: Any
    exit_code: int = 0
    note: str = ""
    """Printed after the content, to standard error."""

    view: View | None = None
    """Replaces the view of the command."""

    is_stream: bool = False
    """Whether to print the items as they arrive, each as a line of JSON."""

    then: Callable[[], int] | None = None
    """Called after the content was printed; returns the exit code."""


class _Extent(msgspec.Struct, frozen=True):
    """The values of `_LIST_OPTIONS`."""

    limit: int
    is_unlimited: bool

    def read(self, api: ManagementClient, listing: Listing) -> Outcome:
        """Return the items of a list."""
        if self.is_unlimited:
            return Outcome(count_items(api.pages(listing.path, {**listing.query, "limit": listing.page_maximum})))
        page = min(self.limit + 1, listing.page_maximum)
        found = list(islice(api.pages(listing.path, {**listing.query, "limit": page}), self.limit + 1))
        note = f"These are the first {self.limit}; --all shows every item." if len(found) > self.limit else ""
        return Outcome(iter(found[: self.limit]), note=note)


def operation(
    group: click.Group | None, name: str, view: View | None, *, is_list: bool = False, is_watchable: bool = False
) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a function a command, in a group or alone; its first parameter is a client of the management API.

    The function returns content as JSON, a `Listing` if `is_list`, or an `Outcome`. The `view` shows it to people.
    Without a view, the function prints something other than JSON, and returns nothing.
    """

    def decorate(function: Callable[..., Any]) -> click.Command:
        @wraps(function)
        def perform(**options: Any) -> None:
            connection = take(Connection, options)
            form = take(Form, options) if view is not None else None
            extent = take(_Extent, options) if is_list else None
            is_watching = options.pop("is_watching", False)

            def fetch() -> Outcome:
                found = function(api, **options)
                if extent is not None:
                    found = extent.read(api, found)
                return found if isinstance(found, Outcome) else Outcome(found)

            with connection.client() as api:
                if view is None or form is None:
                    function(api, **options)
                elif is_watching:
                    _watch(fetch, view, form)
                else:
                    outcome = fetch()
                    show = _stream if outcome.is_stream else _show
                    sys.exit(show(outcome, view, form))

        command = group.command(name)(perform) if group else click.command(name)(perform)
        command.params += [*(_LIST_OPTIONS if is_list else ()), *([_WATCH_OPTION] if is_watchable else ())]
        command.params += [*(OUTPUT_OPTIONS if view is not None else ()), *SERVER_OPTIONS]
        return command

    return decorate


def printing(view: View) -> Callable[[click.Command], click.Command]:
    """Let a command return content or an `Outcome`, which is printed like that of an `operation`."""

    def decorate(command: click.Command) -> click.Command:
        function = command.callback

        def perform(**options: Any) -> None:
            form = take(Form, options)
            found = function(**options) if function is not None else None
            sys.exit(_show(found if isinstance(found, Outcome) else Outcome(found), view, form))

        command.callback = perform
        command.params += OUTPUT_OPTIONS
        return command

    return decorate


def take(kind: type[Values], options: JsonObject) -> Values:
    """Remove the fields of a structure from the options of a command, and return the structure."""
    return kind(**{name: options.pop(name) for name in kind.__struct_fields__ if name in options})


def _show(outcome: Outcome, view: View, form: Form) -> int:
    """Print an outcome, and return its exit code."""
    if form.is_for_people:
        (outcome.view or view)(outcome.content)
    else:
        form.print(outcome.content, is_stream=outcome.is_stream)
    if outcome.note:
        say(outcome.note, is_error=True)
    return outcome.then() if outcome.then else outcome.exit_code


def _stream(outcome: Outcome, view: View, form: Form) -> int:
    """Print items as they arrive, and return the exit code; Ctrl-C ends it."""
    try:
        return _show(outcome, view, form)
    except KeyboardInterrupt:
        return INTERRUPTED


def _watch(fetch: Callable[[], Outcome], view: View, form: Form) -> None:
    """Show an outcome again and again; where no screen can be cleared, only if it has changed."""
    shown, outage = None, Notice()
    try:
        while True:
            try:
                outcome = fetch()
                content = list(outcome.content) if isinstance(outcome.content, Iterator) else outcome.content
            except Unavailable as error:
                outage.show(f"the server does not answer now: {error}")
            else:
                outage.show("")
                if sys.stdout.isatty() or content != shown:
                    click.clear()
                    _show(msgspec.structs.replace(outcome, content=content), view, form)
                shown = content
            time.sleep(WATCH_SECONDS)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def path_part(name: str) -> str:
    """Return a name as one part of a path; raises `ConfigurationError` if it cannot be one."""
    if not is_name(name):
        raise ConfigurationError(f"{name!r} is not a name")
    return quote(name, safe="")


def present(options: JsonObject, *names: str) -> JsonObject:
    """Return the named options that have a value; without names, all of them."""
    return {name: options[name] for name in names or options if options[name] is not None}
