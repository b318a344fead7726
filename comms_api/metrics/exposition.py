"""Encode families in Prometheus' text format, with prometheus-client; imported at the first scrape."""

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector

from comms_api.metrics.model import Family

PREFIX = "comms_api_"
STANDARD = "process_"
"""Metrics whose names begin so have the same names in all programs, and no prefix."""


class _Families(Collector):
    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for one in self._families:
            name = one.name if one.name.startswith(STANDARD) else PREFIX + one.name
            metric = Metric(name.removesuffix("_total"), one.help, one.kind)
            for sample in one.samples:
                metric.add_sample(name + sample.suffix, sample.labels, sample.value)
            yield metric


def encode(families: Iterable[Family]) -> bytes:
    """Return the text of families."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(list(families)))
    return generate_latest(registry)
