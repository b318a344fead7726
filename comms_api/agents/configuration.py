"""SQL expressions on the rows of `agents`: the configuration that an agent should run, and the one that it runs.

A configuration is the set of the files of the agent's groups: the staged version of a file if the agent is chosen for
it, otherwise the current one. Its version is a hash of their hashes. An agent reports the version that it runs
(`agents.configuration`). A real agent does not; it is known to run the version whose files it had fetched when it last
reported a `fetch-config` or `set-group` as done (`agent_configurations`).
"""

import hashlib
from typing import Any, Literal

from sqlalchemy import ColumnElement, ScalarSelect, Select, and_, case, false, func, literal, or_, select, true
from sqlalchemy.dialects.postgresql import aggregate_order_by

from comms_api.database.schema import (
    agent_configurations,
    agents,
    announcements,
    finished_orders,
    group_files,
    group_members,
    staged_agents,
)

NO_FILES_SHA256 = hashlib.sha256(b"").hexdigest()
"""The version of the configuration without files."""

SyncStatus = Literal["in_sync", "pending", "failed"]
"""Whether an agent runs its configuration; `failed` if the last order that announced it failed."""


def version_of(files: Select[Any]) -> ScalarSelect[str]:
    """Return the version of the configuration that consists of rows of `group_files`.

    It is SHA-256 of the sorted lines `GROUP/FILE SHA256`, each with a line feed.
    """
    line = func.concat(group_files.c.group_name, "/", group_files.c.file_name, " ", group_files.c.sha256, "\n")
    nothing_between = aggregate_order_by(
        literal(""), group_files.c.group_name.collate("C"), group_files.c.file_name.collate("C")
    )
    lines = func.coalesce(func.string_agg(line, nothing_between), literal(""))
    version = func.encode(func.sha256(func.convert_to(lines, literal("UTF8"))), literal("hex"))
    return files.with_only_columns(version).scalar_subquery()


def is_served(is_chosen: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return whether an agent gets a row of `group_files`; `is_chosen` says whether it gets the staged version.

    The first part is the condition of the index of the files that agents get.
    """
    is_staged = group_files.c.staged_percent.is_not(None)
    return and_(or_(group_files.c.is_current, is_staged), is_staged == is_chosen)


_IS_CHOSEN = (
    select(true())
    .where(
        staged_agents.c.group_name == group_files.c.group_name,
        staged_agents.c.file_name == group_files.c.file_name,
        staged_agents.c.agent_id == group_members.c.agent_id,
    )
    .correlate(group_files, group_members)
    .scalar_subquery()
)
IS_SERVED_TO_MEMBER = is_served(func.coalesce(_IS_CHOSEN, false()))
"""Whether the agent of a row of `group_members` gets the file of a row of `group_files`."""

FILES_OF_AGENT = (
    select(group_files)
    .select_from(group_files.join(group_members, group_members.c.group_name == group_files.c.group_name))
    .where(group_members.c.agent_id == agents.c.id, IS_SERVED_TO_MEMBER)
    .correlate(agents)
)
"""The files that an agent should have."""


def expected_configuration() -> ScalarSelect[str]:
    """Return the version of the configuration that an agent should run."""
    return version_of(FILES_OF_AGENT)


_APPLIED = (
    select(agent_configurations.c.applied_sha256)
    .where(agent_configurations.c.agent_id == agents.c.id)
    .correlate(agents)
    .scalar_subquery()
)
RUNNING: ColumnElement[str | None] = func.coalesce(agents.c.configuration, _APPLIED)
"""The version that an agent runs; null if it has never applied one."""

# Scalar subqueries, not EXISTS, which PostgreSQL may compute by reading every finished order.
_STATUS = (
    select(finished_orders.c.status).where(finished_orders.c.order_id == announcements.c.order_id).scalar_subquery()
)
_HAS_FAILED = (
    select(func.bool_or(or_(announcements.c.failures > 0, _STATUS == "failure")))
    .where(announcements.c.agent_id == agents.c.id)
    .correlate(agents)
    .scalar_subquery()
)


def runs(expected: ColumnElement[str]) -> ColumnElement[bool]:
    """Return whether an agent runs this version; one that has never applied a version runs no files."""
    return func.coalesce(RUNNING, literal(NO_FILES_SHA256)) == expected


def is_in_sync() -> ColumnElement[bool]:
    """Return whether an agent runs the configuration that it should run."""
    return runs(expected_configuration())


def sync_status(expected: ColumnElement[str]) -> ColumnElement[str]:
    """Return the `SyncStatus` of an agent that should run this version."""
    return case((runs(expected), "in_sync"), (_HAS_FAILED, "failed"), else_="pending")
