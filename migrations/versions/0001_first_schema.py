"""First schema: agents, groups, users, tokens, events, states, commands and orders.

Revision: 0001, after none
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

UUID7 = """
CREATE FUNCTION uuid7() RETURNS uuid LANGUAGE sql VOLATILE AS $$
    -- RFC 9562, section 5.7. PostgreSQL has such a function from 18 on; we support 15.
    SELECT CAST(substr(stamp, 1, 8) || '-' || substr(stamp, 9, 4) || '-7'
        || substr(CAST(gen_random_uuid() AS text), 16) AS uuid)
    FROM lpad(to_hex(CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)), 12, '0') AS stamp
$$"""


def _timestamp(name: str, *, nullable: bool = True) -> sa.Column:
    return sa.Column(
        name,
        sa.DateTime(timezone=True),
        nullable=nullable,
        server_default=None if nullable else sa.func.now(),
    )


def upgrade() -> None:
    op.execute(UUID7)
    _create_fleet()
    _create_tokens()
    _create_events()
    _create_commands()


def _create_fleet() -> None:
    op.create_table(
        "agents",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("key_hash", sa.LargeBinary, nullable=False),
        sa.Column("type", sa.Text, nullable=False, server_default=""),
        sa.Column("version", sa.Text, nullable=False, server_default=""),
        sa.Column("host", sa.JSON, nullable=False, server_default=sa.text("'{}'")),
        _timestamp("created_at", nullable=False),
        _timestamp("last_login_at"),
        _timestamp("last_seen_at"),
        sa.Column("remote_address", sa.Text),
        postgresql_with={"fillfactor": "80"},
    )
    op.create_table("groups", sa.Column("name", sa.Text, primary_key=True), _timestamp("created_at", nullable=False))
    op.create_table(
        "group_members",
        sa.Column("group_name", sa.Text, sa.ForeignKey("groups.name", ondelete="CASCADE"), primary_key=True),
        sa.Column("agent_id", sa.Uuid, sa.ForeignKey("agents.id", ondelete="CASCADE"), primary_key=True),
    )
    op.create_index("group_members_agent_id_idx", "group_members", ["agent_id"])
    op.create_table(
        "users",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("password_hash", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        _timestamp("created_at", nullable=False),
    )


def _create_tokens() -> None:
    op.create_table(
        "signing_keys",
        sa.Column("kid", sa.Text, primary_key=True),
        sa.Column("algorithm", sa.Text, nullable=False),
        sa.Column("private_key", sa.LargeBinary, nullable=False, comment="encrypted with the node secret"),
        _timestamp("created_at", nullable=False),
    )
    op.create_table(
        "revocations",
        sa.Column("subject", sa.Text, primary_key=True),
        _timestamp("revoked_at", nullable=False),
    )


def _create_events() -> None:
    op.create_table(
        "events",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("agent_id", sa.Uuid, nullable=False),
        sa.Column("module", sa.Text, nullable=False),
        sa.Column("collector", sa.Text, nullable=False),
        sa.Column("event", sa.JSON, nullable=False),
        postgresql_partition_by="RANGE (id)",
    )
    op.create_index("events_agent_id_id_idx", "events", ["agent_id", "id"])
    op.create_table(
        "quarantined_events",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("agent_id", sa.Uuid, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("line", sa.LargeBinary, nullable=False, comment="its first bytes"),
        sa.Column("line_bytes", sa.Integer, nullable=False, comment="the length of the whole line"),
    )
    op.create_table(
        "states",
        sa.Column("agent_id", sa.Uuid, primary_key=True),
        sa.Column("module", sa.Text, primary_key=True),
        sa.Column("collector", sa.Text, primary_key=True),
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("data", sa.JSON, nullable=False),
        _timestamp("created_at", nullable=False),
        _timestamp("updated_at", nullable=False),
        postgresql_with={"fillfactor": "80"},
    )


def _create_commands() -> None:
    op.create_table(
        "commands",
        sa.Column("request_id", sa.Uuid, primary_key=True),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("user_name", sa.Text, nullable=False),
        sa.Column("target_type", sa.Text, nullable=False),
        sa.Column("target_id", sa.Text, nullable=False),
        sa.Column("action_name", sa.Text, nullable=False),
        sa.Column("action_version", sa.Text, nullable=False),
        sa.Column("action_args", sa.JSON, nullable=False),
        sa.Column("timeout_seconds", sa.Double, nullable=False),
        _timestamp("created_at", nullable=False),
        _timestamp("expires_at", nullable=False),
    )
    op.create_table(
        "orders",
        *_order_columns(),
        sa.Column("position", sa.BigInteger, sa.Identity(always=True), nullable=False, comment="oldest first"),
        _timestamp("lease_until"),
        postgresql_with={"fillfactor": "50"},
    )
    op.create_index("orders_agent_id_position_idx", "orders", ["agent_id", "position"])
    op.create_index("orders_expires_at_idx", "orders", ["expires_at"])
    op.create_index("orders_request_id_order_id_idx", "orders", ["request_id", "order_id"])
    op.create_table(
        "finished_orders",
        *_order_columns(),
        _timestamp("finished_at", nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("result_code", sa.Integer),
        sa.Column("result_message", sa.Text),
        sa.Column("result_data", sa.JSON),
        postgresql_partition_by="RANGE (order_id)",
    )
    op.create_index("finished_orders_agent_id_order_id_idx", "finished_orders", ["agent_id", "order_id"])
    op.create_index("finished_orders_request_id_order_id_idx", "finished_orders", ["request_id", "order_id"])


def _order_columns() -> list[sa.Column]:
    return [
        sa.Column("order_id", sa.Uuid, primary_key=True),
        sa.Column("request_id", sa.Uuid, nullable=False),
        sa.Column("agent_id", sa.Uuid, nullable=False),
        sa.Column("agent_groups", sa.ARRAY(sa.Text), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False, server_default=sa.text("0")),
        _timestamp("created_at", nullable=False),
        _timestamp("expires_at", nullable=False),
        _timestamp("sent_at"),
    ]


def downgrade() -> None:
    for table in (
        "finished_orders",
        "orders",
        "commands",
        "states",
        "quarantined_events",
        "events",
        "revocations",
        "signing_keys",
        "users",
        "group_members",
        "groups",
        "agents",
    ):
        op.drop_table(table)
    op.execute("DROP FUNCTION uuid7()")
