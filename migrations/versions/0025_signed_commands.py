"""Store the signatures of commands, and the keys that actions demand.

Revision: 0025, after 0024
"""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    signed = sa.Column("signed", sa.JSON, comment="an operator's signature of what its agents may do")
    op.add_column("commands", signed)
    for table in ("actions", "action_versions"):
        signers = sa.Column(
            "signers",
            sa.ARRAY(sa.Text),
            nullable=False,
            server_default=sa.text("'{}'"),
            comment="the keys of which one must sign its commands; none: no signature",
        )
        op.add_column(table, signers)


def downgrade() -> None:
    for table in ("action_versions", "actions"):
        op.drop_column(table, "signers")
    op.drop_column("commands", "signed")
