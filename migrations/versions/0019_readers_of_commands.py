"""Record which service submitted a command, and index the archive by agent.

Revision: 0019, after 0018
"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    comment = "the service that submitted it, which may name another user"
    op.add_column("commands", sa.Column("service", sa.Text, comment=comment))
    op.execute("CREATE INDEX commands_service_idx ON commands (service, request_id) WHERE service IS NOT NULL")
    op.add_column(
        "archived_orders",
        sa.Column(
            "agents",
            sa.ARRAY(sa.Integer),
            nullable=False,
            server_default=sa.text("'{}'"),
            comment="hashes of their recipients",
        ),
    )
    op.execute("CREATE INDEX archived_orders_agents_idx ON archived_orders USING gin (agents)")


def downgrade() -> None:
    op.drop_column("archived_orders", "agents")
    op.drop_column("commands", "service")
