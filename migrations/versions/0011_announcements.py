"""Keep the orders that announce configurations until they have succeeded, so that failed ones are repeated.

Revision: 0011, after 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "announcements",
        sa.Column("agent_id", sa.Uuid, primary_key=True),
        sa.Column(
            "has_moved",
            sa.Boolean,
            primary_key=True,
            comment="whether the order is to change groups, or to fetch files",
        ),
        sa.Column("order_id", sa.Uuid, nullable=False, comment="the last order that announced it"),
        sa.Column(
            "failures",
            sa.Integer,
            nullable=False,
            server_default=sa.text("0"),
            comment="orders that failed before",
        ),
        sa.Column("check_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    )
    op.create_index("announcements_check_at_idx", "announcements", ["check_at"])


def downgrade() -> None:
    op.drop_table("announcements")
