"""Add selections of agents; an action on a selection is one entry of the audit trail.

Revision: 0037, after 0036
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

from comms_api.database.migrate import replace_in_function

revision = "0037"
down_revision = "0036"
branch_labels = None
depends_on = None

# A step of an action names its selection, whose entry the beginning of the action has written.
BEGIN = "    INSERT INTO audit (id,"
END = "new_row - secrets - moving);"
CONDITION = "    IF coalesce(current_setting('comms_api.selection', true), '') = '' THEN\n"
REPLACED = ((BEGIN, CONDITION + BEGIN), (END, END + "\n    END IF;"))


def upgrade() -> None:
    op.create_table(
        "selections",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("user_name", sa.Text, sa.ForeignKey("users.name", ondelete="CASCADE"), nullable=False),
        sa.Column("query", sa.Text, comment="the query string of the list that was selected; null: single agents"),
        sa.Column("agents", sa.Integer, nullable=False),
        sa.Column("agent_ids", ARRAY(sa.Uuid), nullable=False, comment="at most 100,000"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("action", sa.Text),
        sa.Column("group_name", sa.Text, comment="the group that the agents join or leave"),
        sa.Column("address", sa.Text, comment="the address of the user who began the action"),
        _number("examined", "the first of agent_ids are done"),
        _number("changed", "agents that were different before"),
        sa.Column("fault", sa.Text, comment="why the action ended early"),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
    )
    op.create_index("selections_user_name_idx", "selections", ["user_name"])
    replace_in_function(op.get_bind(), "record_change", *REPLACED)


def _number(name: str, comment: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False, server_default=sa.text("0"), comment=comment)


def downgrade() -> None:
    replace_in_function(op.get_bind(), "record_change", *((new, old) for old, new in REPLACED))
    op.drop_table("selections")
