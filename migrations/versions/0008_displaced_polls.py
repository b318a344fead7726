"""Add the address of an agent's newest poll, and how often a newer poll displaced a held one.

Revision: 0008, after 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

COLUMNS = (
    sa.Column("poll_address", sa.Text, comment="the source of its newest poll"),
    sa.Column("polled_at", sa.DateTime(timezone=True)),
    sa.Column(
        "displaced_polls", sa.Integer, nullable=False, server_default="0", comment="polls that a newer one has ended"
    ),
    sa.Column("displaced_poll_address", sa.Text),
    sa.Column("displaced_poll_at", sa.DateTime(timezone=True)),
)


def upgrade() -> None:
    for column in COLUMNS:
        op.add_column("agents", column)


def downgrade() -> None:
    for column in reversed(COLUMNS):
        op.drop_column("agents", column.name)
