"""Omit the columns that an agent's polls change from the audit trail.

Revision: 0013, after 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

OLD = "'{last_login_at,last_seen_at,remote_address,node,configuration}'"
NEW = (
    "'{last_login_at,last_seen_at,remote_address,node,configuration,"
    "poll_address,polled_at,displaced_polls,displaced_poll_address,displaced_poll_at}'"
)


def upgrade() -> None:
    _replace_in_record_change(OLD, NEW)


def downgrade() -> None:
    _replace_in_record_change(NEW, OLD)


def _replace_in_record_change(old: str, new: str) -> None:
    definition = op.get_bind().scalar(sa.text("SELECT pg_get_functiondef('record_change'::regproc)"))
    if old not in definition:
        raise RuntimeError("record_change() is not as revision 0012 left it")
    op.get_bind().exec_driver_sql(definition.replace(old, new))
