"""Scrape a server."""

import re
from collections.abc import Mapping

import httpx

from support.waiting import wait_until


def scrape(management: httpx.Client) -> str:
    return management.get("/metrics").raise_for_status().text


def total(text: str, series: str) -> float:
    """Return the sum of the samples of a series: its name, and its labels as in a query: `name{label="value"}`."""
    name, _, labels = series.rstrip("}").partition("{")
    lines = [line for line in text.splitlines() if re.match(rf"{name}[{{ ]", line)]
    return sum(float(line.rpartition(" ")[2]) for line in lines if all(part in line for part in labels.split(",")))


def wait_for(management: httpx.Client, expected: Mapping[str, float]) -> None:
    """Wait until series have these values: those of another worker are up to five seconds old."""

    def measured() -> dict[str, float]:
        text = scrape(management)
        return {series: total(text, series) for series in expected}

    wait_until(lambda: measured() == expected, says=measured)
