"""Record which version of its configuration each agent has fetched and applied.

Revision: 0024, after 0023
"""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "agent_configurations",
        sa.Column("agent_id", sa.Uuid, sa.ForeignKey("agents.id", ondelete="CASCADE"), primary_key=True),
        sa.Column(
            "fetched_sha256", sa.Text, comment="the version of its configuration when it last fetched a new file"
        ),
        sa.Column(
            "unfetched",
            sa.ARRAY(sa.Text),
            nullable=False,
            server_default=sa.text("'{}'"),
            comment="groups without a fetch of it",
        ),
        sa.Column("fetched_at", sa.DateTime(timezone=True)),
        sa.Column(
            "applied_sha256", sa.Text, comment="the version that it had fetched when an order to apply it succeeded"
        ),
        sa.Column("reported_at", sa.DateTime(timezone=True)),
        postgresql_with={"fillfactor": "80"},
    )


def downgrade() -> None:
    op.drop_table("agent_configurations")
