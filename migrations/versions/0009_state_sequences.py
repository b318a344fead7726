"""Add the number of each agent's newest stateful batch, so that an older batch cannot undo it.

Revision: 0009, after 0008
"""

from alembic import op
from sqlalchemy import BigInteger, Column, Uuid

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "state_sequences",
        Column("agent_id", Uuid, primary_key=True),
        Column("number", BigInteger, nullable=False, comment="of the newest stateful batch that has been applied"),
        postgresql_with={"fillfactor": "50"},
    )


def downgrade() -> None:
    op.drop_table("state_sequences")
