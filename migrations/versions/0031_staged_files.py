"""Publish a version of a file to a part of its group's agents first.

Revision: 0031, after 0030
"""

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    percent = sa.Column("staged_percent", sa.Integer)
    percent.comment = "the part of the agents that a staged version is for; null: not staged"
    op.add_column("group_files", percent)
    op.create_index(
        "group_files_served_idx",
        "group_files",
        ["group_name", "file_name"],
        postgresql_where=sa.text("is_current OR staged_percent IS NOT NULL"),
    )
    op.create_table(
        "staged_agents",
        sa.Column("group_name", sa.Text, sa.ForeignKey("groups.name", ondelete="CASCADE"), primary_key=True),
        sa.Column("file_name", sa.Text, primary_key=True),
        sa.Column("agent_id", sa.Uuid, primary_key=True, comment="chosen for the staged version of the file"),
    )


def downgrade() -> None:
    op.drop_table("staged_agents")
    op.drop_index("group_files_served_idx", "group_files")
    op.drop_column("group_files", "staged_percent")
