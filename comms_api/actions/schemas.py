"""Check args against the JSON Schemas that users register, at a bounded cost.

Registration walks a schema as it expands, to compute its cost. Cheap checks run at once. Expensive checks, and the
search for the faults of invalid args, run in a child process with limits of memory and CPU time.
"""

import json
import logging
import math
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec

from comms_api.actions import schema_child
from comms_api.actions.schema_child import VALIDATORS_CACHED, compile_schema
from comms_api.errors import Invalid, Unavailable
from comms_api.fairness.budgets import CpuBudget
from comms_api.fairness.executors import BoundedExecutor
from comms_api.protocol import contains_nul

logger = logging.getLogger(__name__)

SCHEMA_BYTES_MAXIMUM = 64 * 1024
EXPANDED_VALUES_MAXIMUM = 10_000
"""The most JSON values of a schema once its references are replaced by their targets."""

DEPTH_MAXIMUM = 64
PATTERN_VALUES = 20
"""A pattern costs as much as this many values, as measured."""

INLINE_VALUES_MAXIMUM = 1_000
INLINE_WORK_MAXIMUM = 1_000_000
"""The maximum of the schema's values times the bytes of args for a cheap check: at worst about 20 ms."""

CHILDREN = 1
CHECKS_MAXIMUM = 16
"""The maximum number of requests whose checks in child processes wait or run."""

CHILD = Path(schema_child.__file__)
MEMORY_BYTES = 512 * 2**20
CPU_SECONDS = 1
WAIT_SECONDS = 30.0

_PATTERNS = {"pattern", "patternProperties", "format"}
_DYNAMIC = {"$dynamicRef", "$recursiveRef"}
_UNBOUNDED = {"unevaluatedProperties", "unevaluatedItems"}
"""Keywords that evaluate a part of the schema again at each level: their cost is exponential in the depth."""


class Check(msgspec.Struct, frozen=True):
    """Args to be checked against a JSON Schema; `where` names them in an error."""

    where: str
    schema: str
    args: bytes


class _Answer(msgspec.Struct, frozen=True):
    """The faults that a child process found, and its CPU time."""

    cpu_seconds: float
    faults: list[list[str]] = []
    refused: str = ""
    """The reason why a schema cannot be used, or why the checks are incomplete."""


class Schemas:
    """Checks schemas and args for one node.

    Each check that needs a process starts its own. Its CPU time is charged to the user.
    """

    def __init__(self, cpu: CpuBudget) -> None:
        self._cpu = cpu
        self._children = BoundedExecutor("schema checks", CHILDREN, CHECKS_MAXIMUM)

    async def check_schema(self, schema: bytes, user: str) -> None:
        """Raise `Invalid` for a schema that cannot be used, or whose checks could cost too much."""
        if len(schema) > SCHEMA_BYTES_MAXIMUM:
            raise Invalid(f"schema: larger than {SCHEMA_BYTES_MAXIMUM} bytes")
        if contains_nul(schema):
            raise Invalid("schema: must not contain NUL")
        text = schema.decode()
        _cost(text)
        await self._find_faults([Check("schema", text, b"{}")], user)

    async def check(self, checks: Sequence[Check], user: str) -> None:
        """Raise `Invalid`, with the first faults, for args that violate their schemas."""
        work, remaining = 0.0, []
        for check in checks:
            cost = _cost(check.schema)
            work += cost * len(check.args)
            is_cheap = cost <= INLINE_VALUES_MAXIMUM and work <= INLINE_WORK_MAXIMUM
            if not is_cheap or not _fits(check):
                remaining.append(check)
        if remaining and (faults := await self._find_faults(remaining, user)):
            raise Invalid(*faults)

    async def _find_faults(self, checks: Sequence[Check], user: str) -> list[str]:
        self._cpu.refuse_debtor(user)
        texts = [(check.schema, check.args.decode()) for check in checks]
        answer = await self._children.run(user, partial(_run_child, msgspec.json.encode(texts)))
        self._cpu.charge(user, answer.cpu_seconds)
        if answer.refused:
            raise Invalid(f"{checks[0].where}: {answer.refused}")
        pairs = zip(checks, answer.faults, strict=True)
        return [check.where + fault for check, faults in pairs for fault in faults][: schema_child.FAULTS_SHOWN]


def _fits(check: Check) -> bool:
    try:
        return compile_schema(check.schema).is_valid(json.loads(check.args))
    except (RecursionError, ValueError):
        return False


@lru_cache(VALIDATORS_CACHED)
def _cost(schema: str) -> float:
    """Return the number of values of a schema that has been expanded; raises `Invalid` for one that is too large."""
    try:
        document = json.loads(schema)
    except (RecursionError, ValueError) as error:
        raise Invalid(f"schema: {error}") from None
    walk = _Walk(document)
    walk.visit(document, 0)
    return walk.cost


class _Walk:
    """Visits a schema as it expands: each reference leads to its target, every time.

    Only references by JSON Pointer within the schema are followed (RFC 6901); all others are refused. So is a schema
    that refers to itself, by its depth.
    """

    def __init__(self, document: Any) -> None:
        self._document = document
        self._visited = 0
        self.cost = 0.0
        is_old = isinstance(document, dict) and "draft-04" in str(document.get("$schema"))
        self._identifier = "id" if is_old else "$id"

    def visit(self, value: Any, depth: int) -> None:
        """Count a value and all values below it."""
        self._count(1)
        if depth > DEPTH_MAXIMUM:
            raise Invalid(
                f"schema: nested more than {DEPTH_MAXIMUM} deep, references included; it must not refer to itself"
            )
        if isinstance(value, list):
            for item in value:
                self.visit(item, depth + 1)
        elif isinstance(value, dict):
            for name, member in value.items():
                self._visit_member(name, member, depth + 1)

    def _visit_member(self, name: str, member: Any, depth: int) -> None:
        if name in _PATTERNS:
            self._count(PATTERN_VALUES * (len(member) if isinstance(member, dict) else 1))
        elif name in _UNBOUNDED:
            self.cost = math.inf
        elif name == "$ref" and isinstance(member, str):
            member = find_target(self._document, member)
        elif isinstance(member, str) and (name in _DYNAMIC or (name == self._identifier and depth > 1)):
            raise Invalid(f"schema: {name} is not supported here")
        self.visit(member, depth)

    def _count(self, values: int) -> None:
        self._visited += values
        self.cost += values
        if self._visited > EXPANDED_VALUES_MAXIMUM:
            raise Invalid(
                f"schema: more than {EXPANDED_VALUES_MAXIMUM} values when each $ref is replaced by its target"
                f" (a pattern counts as {PATTERN_VALUES})"
            )


def find_target(document: Any, reference: str) -> Any:
    """Return the target of a reference within a document; raises `Invalid` for any other reference."""
    if reference != "#" and not reference.startswith("#/"):
        raise Invalid(f"schema: the $ref {reference!r} must begin with #/: only references within the schema work")
    value = document
    for step in unquote(reference[1:]).split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            raise Invalid(f"schema: the $ref {reference!r} has no target")
    return value


def _run_child(checks: bytes) -> _Answer:
    command = [sys.executable, "-I", str(CHILD), str(MEMORY_BYTES), str(CPU_SECONDS)]
    try:
        ended = subprocess.run(  # noqa: S603 - our own program
            command, input=checks, capture_output=True, timeout=WAIT_SECONDS, check=False, cwd="/", env={}
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.warning("cannot check args against a schema: %s", error)
        raise Unavailable("The args could not be checked against their schema; try again later.") from None
    if ended.returncode == 0:
        return msgspec.json.decode(ended.stdout, type=_Answer)
    last = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    logger.warning("a check of args against a schema was aborted: exit status %d, %s", ended.returncode, last)
    reason = f"checking this took more than {CPU_SECONDS} s of CPU time or {MEMORY_BYTES >> 20} MiB"
    return _Answer(CPU_SECONDS, refused=f"{reason}; make the schema simpler, or the args smaller")
