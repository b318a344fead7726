"""Make the refresh tokens of one login a family.

Revision: 0015, after 0014
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "refresh_tokens",
        sa.Column(
            "family",
            sa.Uuid,
            nullable=False,
            server_default=sa.text("gen_random_uuid()"),
            comment="of a login: each refresh replaces the token and keeps the family",
        ),
    )
    op.create_index("refresh_tokens_family_idx", "refresh_tokens", ["family"])


def downgrade() -> None:
    op.drop_column("refresh_tokens", "family")
