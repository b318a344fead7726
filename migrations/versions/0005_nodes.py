"""Nodes: their heartbeats, their state, and the state that operators request.

Revision: 0005, after 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "nodes",
        sa.Column("id", sa.Uuid, primary_key=True, comment="a process; the processes of a node share its name"),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("worker", sa.Integer, nullable=False),
        sa.Column("agent_url", sa.Text, nullable=False),
        sa.Column("management_url", sa.Text, nullable=False),
        sa.Column("boot_id", sa.Text, nullable=False, comment="identifies one boot of a machine"),
        sa.Column("version", sa.Text, nullable=False),
        _now("started_at"),
        _now("seen_at"),
        sa.Column("state", sa.Text, nullable=False, server_default="active"),
        sa.Column("polls", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("requests_per_second", sa.Double, nullable=False, server_default=sa.text("0")),
        sa.Column("duties", sa.JSON, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("skew_seconds", sa.Double, nullable=False, server_default=sa.text("0")),
        sa.Column("key_ids", sa.ARRAY(sa.Text), nullable=False, server_default=sa.text("'{}'")),
        sa.Column("files_sha256", sa.Text, nullable=False, server_default=""),
        sa.Column("wanted_state", sa.Text, nullable=False, server_default="active"),
        sa.Column("wanted_polls", sa.Integer),
        sa.Column("rebalanced_at", sa.DateTime(timezone=True)),
        postgresql_with={"fillfactor": "50"},
    )
    # Operators set the requested state. The node itself updates the other columns every two seconds.
    op.execute(
        "CREATE TRIGGER record_change AFTER UPDATE OF wanted_state, wanted_polls ON nodes FOR EACH ROW"
        " EXECUTE FUNCTION record_change('name', 'worker')"
    )


def _now(name: str) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now())


def downgrade() -> None:
    op.drop_table("nodes")
