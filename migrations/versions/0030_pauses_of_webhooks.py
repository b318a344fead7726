"""Let a receiver pause its webhook with Retry-After.

Revision: 0030, after 0029
"""

import sqlalchemy as sa
from alembic import op

from comms_api.database.migrate import replace_in_function

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

MOVING = "dropped_events,last_error%s,hidden_at"
ADDED = ",paused_until"


def upgrade() -> None:
    paused_until = sa.Column("paused_until", sa.DateTime(timezone=True), comment="by the receiver's Retry-After")
    op.add_column("webhooks", paused_until)
    replace_in_function(op.get_bind(), "record_change", (MOVING % "", MOVING % ADDED))


def downgrade() -> None:
    replace_in_function(op.get_bind(), "record_change", (MOVING % ADDED, MOVING % ""))
    op.drop_column("webhooks", "paused_until")
