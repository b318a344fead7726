"""What statements are executed, and which touch a table that would be distributed by agent without naming agents."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

DISTRIBUTED = {
    "agents": "id",
    "group_members": "agent_id",
    "configuration_changes": "agent_id",
    "announcements": "agent_id",
    "events": "agent_id",
    "quarantined_events": "agent_id",
    "states": "agent_id",
    "state_sequences": "agent_id",
    "orders": "agent_id",
    "finished_orders": "agent_id",
}
"""The tables whose rows belong to an agent, and the column that names it."""

_COMMENT_OR_TEXT = re.compile(r"--[^\n]*|'(?:[^']|'')*'")
_INNERMOST = re.compile(r"\(([^()]*)\)")
_QUERY = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b")
_OF_ARRAYS = re.compile(r"\s*SELECT (DISTINCT )?[\w*, ]+\s+FROM UNNEST\b", re.IGNORECASE)


@contextmanager
def listening(engine: AsyncEngine) -> Iterator[list[str]]:
    """Collect what is executed on the engine's connections in the block, by SQLAlchemy or by the driver."""
    heard: list[str] = []

    def hear(*arguments: Any) -> None:
        heard.append(str(arguments[2]))

    def hear_driver(query: Any) -> None:
        heard.append(query.query)

    def taken(connection: Any, _record: object, _proxy: object) -> None:
        connection.driver_connection.add_query_logger(hear_driver)

    event.listen(engine.sync_engine, "before_cursor_execute", hear)
    event.listen(engine.sync_engine, "checkout", taken)
    yield heard
    event.remove(engine.sync_engine, "checkout", taken)
    event.remove(engine.sync_engine, "before_cursor_execute", hear)


def touched(sql: str) -> set[str]:
    """Return the distributed tables that a statement names."""
    return {table for _, table in _references(sql)}


def unconstrained(sql: str) -> set[str]:
    """Return those of them that some part of the statement reads or writes without naming agents."""
    return {table for block, table in _references(sql) if not _is_constrained(block, table)}


def _references(sql: str) -> Iterator[tuple[str, str]]:
    """Yield each query of the statement, without the queries inside it, with each distributed table it names."""
    for block in _blocks(sql):
        for table in DISTRIBUTED:
            if re.search(rf"\b(FROM|JOIN|UPDATE|INTO|USING|FROM [\w, ]*,)\s+{table}\b", block):
                yield block, table


def _blocks(sql: str) -> list[str]:
    left, blocks = _COMMENT_OR_TEXT.sub("''", sql), []
    while match := _INNERMOST.search(left):
        inner = match[1]
        if _QUERY.match(inner):
            blocks += _parts(inner)
            kept = "⟨arrays⟩" if _OF_ARRAYS.match(inner) else "⟨query⟩"
        else:
            kept = f"⟨{inner}⟩"
        left = left[: match.start()] + kept + left[match.end() :]
    return [*blocks, *_parts(left)]


def _parts(block: str) -> list[str]:
    return re.split(r"\bUNION ALL\b", block)


def _is_constrained(block: str, table: str) -> bool:
    key = DISTRIBUTED[table]
    if re.search(rf"\bINTO {table} ⟨[^⟩]*\b{key}\b", block):
        return True
    if re.search(r"\bOR\b", block):
        return False
    own = rf"(?<![.\w])({table}\.|\w+\.)?{key}\b"
    return any(
        re.search(pattern, block)
        for pattern in (
            rf"{own}\s*=\s*[\w$⟨]",
            rf"USING ⟨[^⟩]*\b{key}\b",
            rf"⟨[^⟩]*\b{key}\b[^⟩]*⟩ IN ⟨arrays⟩",
        )
    )
