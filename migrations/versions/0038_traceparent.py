"""Store the trace of each command.

Revision: 0038, after 0037
"""

import sqlalchemy as sa
from alembic import op

revision = "0038"
down_revision = "0037"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "commands", sa.Column("traceparent", sa.Text, comment="the span that submitted it, in a recorded trace")
    )


def downgrade() -> None:
    op.drop_column("commands", "traceparent")
