"""The results of checks."""

from typing import Literal

import msgspec

Severity = Literal["ok", "warning", "error"]


class Finding(msgspec.Struct, frozen=True):
    """The result of a check of a `subject`: the problem and the remedy, both empty if all is well."""

    check: str
    subject: str
    status: Severity = "ok"
    problem: str = ""
    remedy: str = ""
