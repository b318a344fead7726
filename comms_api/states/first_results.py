"""Keep the results of a keyed batch for its repetition, in about a byte for each change.

Ids and indexes are not kept: the repetition has the same body.
"""

from collections.abc import Sequence

import msgspec

from comms_api.fairness.slices import Steps
from comms_api.protocol import ItemResult
from comms_api.states.model import StateChange

REASONS_MAXIMUM = 100
"""The most different reasons of faulty changes that are kept; further reasons become `faulty`."""

FAULTY = 400
STEP_CHANGES = 500


class _Results(msgspec.Struct, frozen=True, array_like=True):
    outcomes: list[tuple[str, int]]
    """The different results, each with its status: the reasons, and a few others."""

    places: bytes
    """For each change, the place of its outcome in that list."""


_ENCODER, _DECODER = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(_Results)


def encode_results(agent_id: str, results: Sequence[ItemResult]) -> Steps[bytes]:
    """Return the results of a batch's changes in a compact form."""
    outcomes: dict[tuple[str, int], int] = {}
    places = bytearray()
    for number, result in enumerate(results, 1):
        outcome = (result.result, result.status)
        if result.status == FAULTY and outcome not in outcomes and len(outcomes) >= REASONS_MAXIMUM:
            outcome = ("faulty", FAULTY)
        places.append(outcomes.setdefault(outcome, len(outcomes)))
        if number % STEP_CHANGES == 0:
            yield agent_id
    return _ENCODER.encode(_Results(list(outcomes), bytes(places)))


def decode_results(encoded: bytes, changes: Sequence[StateChange]) -> Steps[Sequence[ItemResult]]:
    """Return the results of the first batch for the same changes, sent again."""
    first = _DECODER.decode(encoded)
    results: list[ItemResult] = []
    for number, (change, place) in enumerate(zip(changes, first.places, strict=True), 1):
        results.append(change.outcome(*first.outcomes[place]))
        if number % STEP_CHANGES == 0:
            yield change.key[0]
    return results
