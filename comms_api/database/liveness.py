"""Live nodes: nodes with a recent heartbeat, by the database's clock."""

from typing import Any

from sqlalchemy import ColumnElement, Select, func, select

from comms_api.database.schema import nodes, seconds_interval

LOST_AFTER_SECONDS = 6.0
"""A node counts as live until it has been silent for this long: three heartbeats."""

IS_HERE: ColumnElement[bool] = nodes.c.seen_at > func.now() - seconds_interval(LOST_AFTER_SECONDS)
"""Whether a row of `nodes` belongs to a live process."""

LIVE_NAMES: Select[Any] = select(nodes.c.name).where(IS_HERE)
"""The names of the live nodes."""
