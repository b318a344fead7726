"""Register several versions of an action.

Revision: 0021, after 0020
"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "action_versions",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("version", sa.Text, primary_key=True, comment="the action.version of the commands that it is for"),
        sa.Column("schema", sa.JSON, nullable=False, comment="JSON Schema of its args"),
        sa.Column("recipients", sa.Text, nullable=False),
        sa.Column("user_name", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    )
    op.execute(
        "CREATE TRIGGER record_change AFTER INSERT OR DELETE OR UPDATE ON action_versions FOR EACH ROW"
        " EXECUTE FUNCTION record_change('name', 'version')"
    )


def downgrade() -> None:
    op.drop_table("action_versions")
