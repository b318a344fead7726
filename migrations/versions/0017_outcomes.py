"""Record whether a failed order was rejected by its agent or expired.

Revision: 0017, after 0016
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

COUNTS = ("rejected", "expired_before_delivery", "expired_after_delivery")


def upgrade() -> None:
    outcome = sa.Column("outcome", sa.Text, comment="how it failed, if it was rejected or expired")
    op.add_column("finished_orders", outcome)
    for name in COUNTS:
        op.add_column("archived_orders", sa.Column(name, sa.Integer, nullable=False, server_default=sa.text("0")))


def downgrade() -> None:
    for name in COUNTS:
        op.drop_column("archived_orders", name)
    op.drop_column("finished_orders", "outcome")
