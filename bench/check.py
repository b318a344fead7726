"""Compare a short run with committed figures, so that a change that makes the server slower fails."""

import hashlib
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import click
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from bench import logins, one_event, rest, stateful, stateless
from bench.figures import Effort, Figure, Measured, Measurement
from bench.fresh import measured_together
from bench.report import write_raw
from bench.system import System

FALL = 0.3
EFFORT = Effort(rounds=1, share=0.2)
TURNS = 3

COSTS = {
    "one_event": "cpu_us_per_request",
    "logins": "cpu_us_per_login",
    "stateless_one_worker": "cpu_us_per_event_plain",
    "stateful": "cpu_us_per_state",
}
"""The member of each measurement's raw data that has its CPU time. Other work on the machine lowers rates, not this."""

MEASUREMENTS = (one_event.MEASUREMENT, logins.MEASUREMENT, stateless.ONE_WORKER, stateful.MEASUREMENT)
FIGURES = (*(Figure(f"{name}_cost", 1, 1, "calibrations", is_most=True) for name in COSTS), *rest.MEASUREMENT.figures)
CALIBRATIONS = 10
CALIBRATION_ROUNDS = 100

Values: TypeAlias = Mapping[str, float]


class Run(msgspec.Struct, frozen=True):
    """The compared values; for each turn, the CPU seconds of its calibration and the CPU microseconds of each cost."""

    values: Values
    calibration_seconds: Sequence[float] = ()
    cost_us: Sequence[Values] = ()


def has_fallen(figure: Figure, value: float, baseline: float) -> bool:
    """Return whether a value is more than `FALL` worse than in the baseline."""
    return value > baseline * (1 + FALL) if figure.is_most else value < baseline * (1 - FALL)


def fallen(figures: Sequence[Figure], run: Values, baseline: Values) -> list[Figure]:
    """Return the figures that are worse than in the baseline."""
    return [figure for figure in figures if has_fallen(figure, run[figure.key], baseline[figure.key])]


def best_of(turns: Sequence[Values]) -> dict[str, float]:
    """Return the lowest cost of each request: other work on the machine only adds to it."""
    return {key: min(turn[key] for turn in turns) for key in turns[0]}


def calibrated(cost_us: Values, calibration_seconds: float) -> dict[str, float]:
    """Return costs in calibrations, which take longer on a slow machine."""
    return {f"{name}_cost": cost / calibration_seconds / 1e6 for name, cost in cost_us.items()}


def write_baseline(path: Path) -> None:
    """Measure, and write the figures that later runs are compared with."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(_measure())) + b"\n")


def check(path: Path) -> None:
    """Measure and compare. Figures that are worse are measured again; if they are worse again, the check fails."""
    baseline = msgspec.json.decode(path.read_bytes(), type=Run).values
    worse = _compare(FIGURES, baseline)
    if worse:
        click.echo(f"measuring again for {', '.join(figure.key for figure in worse)}")
        worse = _compare(worse, baseline)
    if worse:
        raise click.ClickException(f"worse by more than {FALL:.0%}: {', '.join(figure.key for figure in worse)}")


def _compare(figures: Sequence[Figure], baseline: Values) -> list[Figure]:
    run = _measure()
    write_raw("check", run)
    for figure in figures:
        value, before = run.values[figure.key], baseline[figure.key]
        click.echo(f"{figure.key:16} {value:10.4g} {figure.unit:14} {value / before:6.0%} of the baseline")
    return fallen(figures, run.values, baseline)


def _measure() -> Run:
    results: defaultdict[str, list[Measured]] = defaultdict(list)
    for name, measured in measured_together([rest.MEASUREMENT, *(CALIBRATION, *MEASUREMENTS) * TURNS], EFFORT):
        results[name].append(measured)
    calibrations = [measured.values["seconds"] for measured in results[CALIBRATION.name]]
    costs = [{name: _cost_us(results[name][turn], key) for name, key in COSTS.items()} for turn in range(TURNS)]
    turns = [calibrated(cost, seconds) for cost, seconds in zip(costs, calibrations, strict=True)]
    [idle] = results[rest.MEASUREMENT.name]
    return Run({**best_of(turns), **idle.values}, calibrations, costs)


def _cost_us(measured: Measured, key: str) -> float:
    cost = msgspec.convert(measured.raw[key], dict[str, float])
    return cost["server"] + cost["postgresql"]


async def _calibrate(_system: System, _effort: Effort) -> Measured:
    """Measure the CPU seconds of a fixed amount of work like the server's: Python, JSON, hashes, signatures."""
    key = ec.generate_private_key(ec.SECP256R1())
    return Measured({"seconds": statistics.median(_calibration_round(key) for _ in range(CALIBRATIONS))}, {})


def _calibration_round(key: ec.EllipticCurvePrivateKey) -> float:
    started = time.process_time()
    for number in range(CALIBRATION_ROUNDS):
        document = {f"member{part}": str(number * part) for part in range(100)}
        text = msgspec.json.encode(document)
        msgspec.json.decode(text)
        key.sign(hashlib.sha256(text * 10).digest(), ec.ECDSA(SHA256()))
    return time.process_time() - started


CALIBRATION = Measurement("calibration", (), _calibrate)
