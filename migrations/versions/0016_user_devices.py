"""Remember the devices of users by a token.

Revision: 0016, after 0015
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "user_devices",
        sa.Column("token_hash", sa.LargeBinary, primary_key=True),
        sa.Column("user_name", sa.Text, sa.ForeignKey("users.name", ondelete="CASCADE"), nullable=False),
        sa.Column("network", sa.Text, nullable=False, comment="that it has logged in from, as in login_failures"),
        sa.Column("has_returned", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    )
    op.create_index("user_devices_user_name_idx", "user_devices", ["user_name"])


def downgrade() -> None:
    op.drop_table("user_devices")
