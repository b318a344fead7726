"""`comms-api doctor`: check a whole deployment."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from comms_api.cli.shared.node_options import CONFIG, DATA_DIR
from comms_api.cli.shared.operation import Outcome, printing
from comms_api.cli.shared.output import JsonObject, say
from comms_api.doctor.examination import Case, examine
from comms_api.doctor.model import Finding
from comms_api.errors import ConfigurationError
from comms_api.settings import current_settings

MARKS = {"ok": "✓", "warning": "!", "error": "✗"}


def _show(findings: Sequence[JsonObject]) -> None:
    width = max(len(finding["check"]) for finding in findings)
    for finding in findings:
        say(f"{MARKS[finding['status']]} {finding['check']:{width}}  {finding['subject']}")
        if finding["status"] != "ok":
            say(f"  {'':{width}}  {finding['problem']}")
            say(f"  {'':{width}}  → {finding['remedy']}")


@printing(_show)
@click.command()
@CONFIG
@DATA_DIR
@click.option("--url", "urls", multiple=True, help="URL at which agents reach this deployment; may be repeated.")
@click.option(
    "--ca",
    envvar="COMMS_CA",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="CA certificate that agents trust; by default the development CA, or the system's CAs.",
)
def doctor(config: Path | None, data_dir: Path | None, urls: Sequence[str], ca: Path | None) -> Outcome:
    """Check a whole deployment, and suggest a remedy for each problem.

    Run this on a node, with the node's settings. It changes nothing. The exit code is 1 if there are findings.
    """
    try:
        settings = current_settings(config, data_dir=data_dir)
        findings = asyncio.run(examine(Case(settings, config, urls, ca)))
    except ConfigurationError as error:
        findings = [Finding("settings", str(config or "environment"), "error", str(error), "correct the setting")]
    content = msgspec.to_builtins(findings)
    faults = sum(finding.status != "ok" for finding in findings)
    note = f"{faults} finding(s) of {len(findings)} checks." if faults else f"{len(findings)} checks: all is well."
    return Outcome(content, int(bool(faults)), note)
