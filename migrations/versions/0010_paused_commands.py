"""Add an index of paused commands, for the duty that ends their pauses when all their orders have ended.

Revision: 0010, after 0009
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX commands_paused_idx ON commands (request_id) WHERE phase = 'paused'")


def downgrade() -> None:
    op.execute("DROP INDEX commands_paused_idx")
