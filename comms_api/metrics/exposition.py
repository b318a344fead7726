"""Encode families in Prometheus' text format, with prometheus-client; imported at the first scrape."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector

from comms_api.metrics.model import Family, Series

PREFIX = "comms_api_"
STANDARD = "process_"
"""Metrics whose names begin so have the same names in all programs, and no prefix."""


class _Families(Collector):
    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for one in self._families:
            name = one.name if one.name.startswith(STANDARD) else PREFIX + one.name
            metric = Metric(name.removesuffix("_total"), one.help, one.kind)
            for series in one.series:
                if one.kind == "histogram":
                    _add_histogram(metric, name, series)
                else:
                    metric.add_sample(name, series.labels, series.value)
            yield metric


def _add_histogram(metric: Metric, name: str, series: Series) -> None:
    counts = list(accumulate(series.counts))
    for bound, count in zip([*map(float, series.bounds), "+Inf"], counts, strict=True):
        metric.add_sample(f"{name}_bucket", {**series.labels, "le": str(bound)}, count)
    metric.add_sample(f"{name}_count", series.labels, counts[-1])
    metric.add_sample(f"{name}_sum", series.labels, series.value)


def encode(families: Sequence[Family]) -> bytes:
    """Return the text of families."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(families))
    return generate_latest(registry)
