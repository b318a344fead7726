"""Store the events of a batch in one row, compressed. The rows of the table `events` are dropped.

Revision: 0033, after 0032
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_table("events")
    op.create_table(
        "event_batches",
        sa.Column("id", sa.Uuid, primary_key=True, comment="of its first event; event n has id + n"),
        sa.Column("agent_id", sa.Uuid, nullable=False),
        sa.Column("events", sa.Integer, nullable=False, comment="the number of events"),
        sa.Column("streams", JSONB, comment="the collectors of each module; NULL: too many"),
        sa.Column("content", sa.LargeBinary, nullable=False, comment="the events, compressed by zstd"),
        sa.Column(
            "xact", sa.BigInteger, nullable=False, server_default=sa.text("(pg_current_xact_id()::text)::bigint")
        ),
        postgresql_partition_by="RANGE (id)",
    )
    op.execute("ALTER TABLE event_batches ALTER content SET STORAGE EXTERNAL")
    op.create_index("event_batches_agent_id_id_idx", "event_batches", ["agent_id", "id"])
    op.create_index("event_batches_xact_id_idx", "event_batches", ["xact", "id"])


def downgrade() -> None:
    op.drop_table("event_batches")
    op.create_table(
        "events",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("agent_id", sa.Uuid, nullable=False),
        sa.Column("module", sa.Text, nullable=False),
        sa.Column("collector", sa.Text, nullable=False),
        sa.Column("event", sa.JSON, nullable=False),
        postgresql_partition_by="RANGE (id)",
    )
    op.create_index("events_agent_id_id_idx", "events", ["agent_id", "id"])
