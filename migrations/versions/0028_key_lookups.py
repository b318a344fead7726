"""Let all nodes together look an agent up once at a time.

Revision: 0028, after 0027
"""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "key_lookups",
        sa.Column("question", sa.Text, primary_key=True),
        sa.Column("holder", sa.Uuid, nullable=False, comment="the lookup that has claimed it, or was refused"),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("code", sa.Integer, comment="of a refusal; NULL while a lookup runs"),
        sa.Column("message", sa.Text),
        prefixes=["UNLOGGED"],
        postgresql_with={"fillfactor": "50"},
    )


def downgrade() -> None:
    op.drop_table("key_lookups")
