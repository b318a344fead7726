"""Read the results of orders that real agents report as states of the module `command`."""

import msgspec

from comms_api.protocol import OrderResult, Result
from comms_api.states.model import StateChange


class _Command(msgspec.Struct, frozen=True):
    result: Result


class _Report(msgspec.Struct, frozen=True):
    command: _Command


# Not strict: agents in other languages send numbers as texts.
_REPORT = msgspec.json.Decoder(_Report, strict=False)


def read_result(change: StateChange) -> OrderResult | str:
    """Return the result that `change` reports (its id is the order's), or why it is not a report."""
    if change.operation != "update" or change.data is None:
        return 'operation: a result is an "update"'
    try:
        return OrderResult(change.key[3], _REPORT.decode(change.data).command.result)
    except msgspec.DecodeError as error:
        return f"data: {error}"
