"""Families of metrics, as a worker shares them with the other workers of its node."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec

from comms_api.meters import Histogram

Kind = Literal["counter", "gauge", "histogram"]
Labels: TypeAlias = dict[str, str]
Values: TypeAlias = Mapping[str, float | Histogram]
"""The values of a family with one label, by the value of that label."""


class Series(msgspec.Struct, frozen=True, array_like=True):
    """The value of a family for some labels; for a histogram, the sum of its values, its bounds and its counts."""

    labels: Labels
    value: float
    bounds: Sequence[float] = ()
    counts: Sequence[int] = ()


class Family(msgspec.Struct, frozen=True, array_like=True):
    """A metric: its name without the prefix, and its series."""

    kind: Kind
    name: str
    help: str
    series: list[Series]


def family(kind: Kind, name: str, text: str, values: Iterable[tuple[Labels, float | Histogram]]) -> Family:
    """Return a family with these values."""
    return Family(kind, name, text, [_series(labels, value) for labels, value in values])


def single(kind: Kind, name: str, text: str, value: float | Histogram) -> Family:
    """Return a family without labels."""
    return family(kind, name, text, [({}, value)])


def by(label: str, kind: Kind, name: str, text: str, values: Values) -> Family:
    """Return a family with one label."""
    return family(kind, name, text, [({label: key}, value) for key, value in values.items()])


def _series(labels: Labels, value: float | Histogram) -> Series:
    if isinstance(value, Histogram):
        return Series(labels, value.total, value.bounds, value.counts)
    return Series(labels, value)


def merge(workers: Mapping[int, Iterable[Family]]) -> list[Family]:
    """Merge the families of several workers; each series gets the label `worker`."""
    merged: dict[str, Family] = {}
    for worker, families in workers.items():
        for one in families:
            series = [
                msgspec.structs.replace(each, labels={"worker": str(worker), **each.labels}) for each in one.series
            ]
            merged.setdefault(one.name, Family(one.kind, one.name, one.help, [])).series.extend(series)
    return list(merged.values())
