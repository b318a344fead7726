"""Count failed logins for all nodes together.

Revision: 0014, after 0013
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "login_failures",
        sa.Column("who", sa.LargeBinary, primary_key=True, comment="a digest of the kind of limit and of the name"),
        sa.Column(
            "network", sa.Text, primary_key=True, comment="an IPv4 address or the /64 of an IPv6 address; empty: any"
        ),
        sa.Column("failures", sa.Double, nullable=False),
        sa.Column("failed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("locked_until", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        prefixes=["UNLOGGED"],
        postgresql_with={"fillfactor": "50"},
    )


def downgrade() -> None:
    op.drop_table("login_failures")
