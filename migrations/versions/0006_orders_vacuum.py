"""Let the queue of orders keep its pages: vacuum does not truncate the table.

Revision: 0006, after 0005
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE orders SET (vacuum_truncate = off)")


def downgrade() -> None:
    op.execute("ALTER TABLE orders RESET (vacuum_truncate)")
