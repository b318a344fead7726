"""Which nodes are here: those whose heartbeat the database has seen lately, by its own clock."""

from typing import Any

from sqlalchemy import ColumnElement, Select, func, select

from comms_api.database.schema import nodes, seconds_interval

LOST_AFTER_SECONDS = 6.0
"""How long a node may be silent and still count as here: three heartbeats."""

IS_HERE: ColumnElement[bool] = nodes.c.seen_at > func.now() - seconds_interval(LOST_AFTER_SECONDS)
"""Whether a row of `nodes` is of a process that is here."""

LIVE_NAMES: Select[Any] = select(nodes.c.name).where(IS_HERE)
"""The names of the nodes that are here."""
