"""Validate JSON against JSON Schemas within limits of memory and CPU time.

Run as a script by `schemas.Schemas`: slow work can be killed in a process, but not in a thread. Reads
`[[schema, instance], …]`, each a text of JSON, from standard input. Writes
`{"faults": [[fault, …], …], "refused": "why a schema cannot be used", "cpu_seconds": 0.1}`.
Arguments: bytes of memory, seconds of CPU time.
"""

import json
import os
import resource
import sys
import time
from functools import lru_cache
from itertools import islice
from typing import Any

import jsonschema_rs

VALIDATORS_CACHED = 256
FAULTS_SHOWN = 5
FAULT_LENGTH_MAXIMUM = 300
NICENESS = 10
PATTERN_BYTES_MAXIMUM = 100_000
"""The largest compiled `pattern`: `^[A-Za-z0-9._-]{1,255}$` fits, and compiling one takes less than a millisecond."""


@lru_cache(VALIDATORS_CACHED)
def compile_schema(schema: str) -> jsonschema_rs.Validator:
    """Return the validator of a schema; raises `ValueError`.

    It never fetches a reference, and its patterns cannot backtrack.
    """
    patterns = jsonschema_rs.RegexOptions(size_limit=PATTERN_BYTES_MAXIMUM, dfa_size_limit=PATTERN_BYTES_MAXIMUM)
    try:
        return jsonschema_rs.validator_for(json.loads(schema), offline=True, pattern_options=patterns)
    except (ValueError, RecursionError, jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
        raise ValueError(str(error).partition("\n")[0]) from None


def find_faults(schema: str, instance: str) -> list[str]:
    """Return the first faults of an instance: where and how it violates a schema."""
    validator = compile_schema(schema)
    try:
        document = json.loads(instance)
        if validator.is_valid(document):
            return []
        return [_fault(error) for error in islice(validator.iter_errors(document), FAULTS_SHOWN)]
    except (RecursionError, ValueError) as error:
        return [f": cannot be checked: {error}"]


def _fault(error: jsonschema_rs.ValidationError) -> str:
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.instance_path)
    message = error.message
    if len(message) > FAULT_LENGTH_MAXIMUM:
        message = message[:FAULT_LENGTH_MAXIMUM] + "…"
    return f"{path[:FAULT_LENGTH_MAXIMUM]}: {message}"


def main(memory_bytes: int, cpu_seconds: int) -> None:
    """Set the limits, lower the priority, read the checks and write their faults."""
    os.nice(NICENESS)
    for kind, limit in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))
    checks: list[list[Any]] = json.load(sys.stdin)
    faults, refused = list[list[str]](), ""
    try:
        faults = [find_faults(schema, instance) for schema, instance in checks]
    except ValueError as error:
        refused = str(error)
    json.dump({"faults": faults, "refused": refused, "cpu_seconds": time.process_time()}, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
