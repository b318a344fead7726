"""Add the events of the fleet, and the User-Agent that an agent's description comes from.

Revision: 0018, after 0017
"""

import sqlalchemy as sa
from alembic import op

from comms_api.database.migrate import replace_in_function

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

MOVING = "poll_address,polled_at,displaced_polls,displaced_poll_address,displaced_poll_at%s}'"
COMPARED = "IF TG_OP = 'UPDATE' AND old_row - moving%s = new_row - moving%s THEN"
DESCRIBED = " - '{type,version,host}'::text[]"
"""A change of these columns alone is an event of the fleet; it is not in the audit trail."""


def upgrade() -> None:
    comment = "the last one that was applied to its type, version and host"
    op.add_column("agents", sa.Column("user_agent", sa.Text, comment=comment))
    replace_in_function(
        op.get_bind(),
        "record_change",
        (MOVING % "", MOVING % ",user_agent"),
        (COMPARED % ("", ""), COMPARED % ((DESCRIBED,) * 2)),
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.Uuid, primary_key=True, server_default=sa.text("uuid7()")),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("clock_timestamp()")),
        *_content(),
    )
    op.create_table(
        "fleet_events",
        sa.Column(
            "position", sa.BigInteger, sa.Identity(always=True), primary_key=True, comment="visible in this order"
        ),
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        *_content(),
    )
    op.create_index("fleet_events_kind_position_idx", "fleet_events", ["kind", "position"])
    for column in ("agent_id", "node"):
        op.create_index(
            f"fleet_events_{column}_position_idx",
            "fleet_events",
            [column, "position"],
            postgresql_where=sa.text(f"{column} IS NOT NULL"),
        )


def _content() -> list[sa.Column]:
    return [
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("agent_id", sa.Uuid),
        sa.Column("agent_name", sa.Text),
        sa.Column("node", sa.Text),
        sa.Column("details", sa.JSON, nullable=False, server_default=sa.text("'{}'")),
    ]


def downgrade() -> None:
    op.drop_table("fleet_events")
    op.drop_table("outbox")
    replace_in_function(
        op.get_bind(),
        "record_change",
        (MOVING % ",user_agent", MOVING % ""),
        (COMPARED % ((DESCRIBED,) * 2), COMPARED % ("", "")),
    )
    op.drop_column("agents", "user_agent")
