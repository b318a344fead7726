"""Families of metrics, as a worker shares them with the other workers of its node."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Literal, TypeAlias

import msgspec

from comms_api.meters import Histogram

Kind = Literal["counter", "gauge", "histogram"]
Labels: TypeAlias = dict[str, str]
Values: TypeAlias = Mapping[str, float | Histogram]
"""The values of a family with one label, by the value of that label."""


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One value of a family; the suffix of the name is empty except for histograms."""

    suffix: str
    labels: Labels
    value: float


class Family(msgspec.Struct, frozen=True, array_like=True):
    """A metric: its name without the prefix, and its samples."""

    kind: Kind
    name: str
    help: str
    samples: list[Sample]


def family(kind: Kind, name: str, text: str, values: Iterable[tuple[Labels, float | Histogram]]) -> Family:
    """Return a family with these values."""
    return Family(kind, name, text, [sample for labels, value in values for sample in _samples(labels, value)])


def single(kind: Kind, name: str, text: str, value: float | Histogram) -> Family:
    """Return a family without labels."""
    return family(kind, name, text, [({}, value)])


def by(label: str, kind: Kind, name: str, text: str, values: Values) -> Family:
    """Return a family with one label."""
    return family(kind, name, text, [({label: key}, value) for key, value in values.items()])


def _samples(labels: Labels, value: float | Histogram) -> Sequence[Sample]:
    if not isinstance(value, Histogram):
        return [Sample("", labels, value)]
    counts = list(accumulate(value.counts))
    bounds = [*map(float, value.bounds), float("inf")]
    return [
        *(
            Sample("_bucket", {**labels, "le": "+Inf" if bound == float("inf") else f"{bound:g}"}, count)
            for bound, count in zip(bounds, counts, strict=True)
        ),
        Sample("_count", labels, counts[-1]),
        Sample("_sum", labels, value.total),
    ]


def merge(workers: Mapping[int, Iterable[Family]]) -> list[Family]:
    """Return the families of several workers as one list; the label `worker` tells their samples apart."""
    merged: dict[str, Family] = {}
    for worker, families in workers.items():
        for one in families:
            samples = [
                Sample(sample.suffix, {"worker": str(worker), **sample.labels}, sample.value) for sample in one.samples
            ]
            merged.setdefault(one.name, Family(one.kind, one.name, one.help, [])).samples.extend(samples)
    return list(merged.values())
