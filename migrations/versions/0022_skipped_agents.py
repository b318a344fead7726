"""Let a command skip offline agents.

Revision: 0022, after 0021
"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    offline = sa.Column(
        "offline", sa.Text, nullable=False, server_default="wait", comment="what happens to offline agents"
    )
    skipped = sa.Column(
        "skipped",
        sa.Integer,
        nullable=False,
        server_default=sa.text("0"),
        comment="how many offline agents got none",
    )
    op.add_column("commands", offline)
    op.add_column("commands", skipped)


def downgrade() -> None:
    op.drop_column("commands", "skipped")
    op.drop_column("commands", "offline")
