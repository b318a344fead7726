"""Idempotency keys of batches.

Revision: 0032, after 0031
"""

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None


def upgrade() -> None:
    key = sa.Column("key", sa.LargeBinary, primary_key=True)
    key.comment = "a hash of the agent, the kind of the batch and its key"
    op.create_table(
        "batch_keys",
        key,
        sa.Column("id", sa.Uuid, primary_key=True, server_default=sa.text("uuid7()")),
        sa.Column("digest", sa.LargeBinary, nullable=False, comment="of the decoded body"),
        sa.Column("results", sa.LargeBinary, comment="of the changes of a stateful batch"),
        postgresql_partition_by="RANGE (id)",
    )


def downgrade() -> None:
    op.drop_table("batch_keys")
