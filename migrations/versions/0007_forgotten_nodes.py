"""Record in the audit trail who removes a lost node, but not the starts and stops of nodes.

Revision: 0007, after 0006
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "CREATE TRIGGER record_deletion AFTER DELETE ON nodes FOR EACH ROW"
        " WHEN (current_setting('comms_api.actor', true) <> '') EXECUTE FUNCTION record_change('name', 'worker')"
    )


def downgrade() -> None:
    op.execute("DROP TRIGGER record_deletion ON nodes")
