"""Report each process's room for agents and the fingerprint of its secret.

Revision: 0036, after 0035
"""

import sqlalchemy as sa
from alembic import op

revision = "0036"
down_revision = "0035"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("nodes", sa.Column("connections_maximum", sa.Integer, nullable=False, server_default=sa.text("0")))
    op.add_column("nodes", sa.Column("secret_fingerprint", sa.Text, nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("nodes", "secret_fingerprint")
    op.drop_column("nodes", "connections_maximum")
