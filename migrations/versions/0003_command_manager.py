"""The command manager: targets, priority, rollouts, registered actions, archive.

Revision: 0003, after 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ROLLING = "commands_rolling_idx"
CLAIM = "orders_claim_idx"

# PostgreSQL 18 has a function four times as fast as ours; older releases keep ours. The planner inlines this call.
NATIVE_UUID7 = """
DO $$ BEGIN
    IF current_setting('server_version_num')::int >= 180000 THEN
        CREATE OR REPLACE FUNCTION uuid7() RETURNS uuid LANGUAGE sql VOLATILE AS 'SELECT uuidv7()';
    END IF;
END $$"""


def upgrade() -> None:
    op.execute(NATIVE_UUID7)
    op.add_column("agents", sa.Column("labels", sa.JSON, nullable=False, server_default=sa.text("'{}'")))
    _widen_commands()
    _widen_orders()
    _create_actions()
    _create_archive()


def _widen_commands() -> None:
    op.add_column("commands", sa.Column("target_ids", sa.ARRAY(sa.Text)))
    op.execute("UPDATE commands SET target_ids = ARRAY[target_id]")
    op.alter_column("commands", "target_ids", nullable=False)
    op.drop_column("commands", "target_id")
    filter_comment = "restricts the agents, by their state at the expansion"
    for column in (
        sa.Column("target_filter", sa.JSON, comment=filter_comment),
        sa.Column("priority", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column(
            "orders", sa.Integer, nullable=False, server_default=sa.text("0"), comment="the number of its orders"
        ),
        sa.Column("retry_of", sa.Uuid, comment="the command whose failed orders these repeat"),
        sa.Column("phase", sa.Text, nullable=False, server_default="released"),
        sa.Column("phase_reason", sa.Text, nullable=False, server_default=""),
        sa.Column("rollout", sa.JSON),
        sa.Column(
            "rollout_credit",
            sa.Double,
            nullable=False,
            server_default=sa.text("1"),
            comment="orders its rate allows now",
        ),
        _now("rolled_at"),
        _now("resumed_at"),
        _now("starts_at"),
    ):
        op.add_column("commands", column)
    op.execute("""UPDATE commands SET starts_at = created_at,
        orders = (SELECT count(*) FROM orders WHERE orders.request_id = commands.request_id)
            + (SELECT count(*) FROM finished_orders WHERE finished_orders.request_id = commands.request_id)""")
    op.create_index(ROLLING, "commands", ["request_id"], postgresql_where=sa.text("phase = 'rolling'"))


def _widen_orders() -> None:
    for column in (
        sa.Column("priority", sa.Integer, nullable=False, server_default=sa.text("0"), comment="highest first"),
        _now("offer_at"),
        sa.Column(
            "bytes",
            sa.Integer,
            nullable=False,
            server_default=sa.text("0"),
            comment="its approximate size in an answer",
        ),
    ):
        op.add_column("orders", column)
    op.execute("UPDATE orders SET offer_at = lease_until WHERE lease_until IS NOT NULL")
    op.execute("""UPDATE orders SET bytes = 2048 + octet_length(CAST(action_args AS text))
        FROM commands WHERE commands.request_id = orders.request_id""")
    op.drop_column("orders", "lease_until")
    op.drop_index("orders_agent_id_position_idx", "orders")
    op.create_index(CLAIM, "orders", ["agent_id", sa.text("priority DESC"), "position"])


def _create_actions() -> None:
    op.create_table(
        "actions",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("schema", sa.JSON, nullable=False, comment="JSON Schema of its args"),
        sa.Column("recipients", sa.Text, nullable=False),
        sa.Column("user_name", sa.Text, nullable=False),
        _now("created_at"),
    )


def _create_archive() -> None:
    op.create_table(
        "archived_orders",
        sa.Column("chunk_id", sa.Uuid, primary_key=True, comment="the id of its first order"),
        sa.Column("last_order_id", sa.Uuid, nullable=False),
        sa.Column("request_id", sa.Uuid, nullable=False),
        sa.Column("success", sa.Integer, nullable=False),
        sa.Column("failure", sa.Integer, nullable=False),
        sa.Column("cancelled", sa.Integer, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False, comment="the orders as lines of JSON, zstd"),
        postgresql_partition_by="RANGE (chunk_id)",
    )
    op.create_index("archived_orders_request_id_chunk_id_idx", "archived_orders", ["request_id", "chunk_id"])


def _now(name: str) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now())


def downgrade() -> None:
    op.execute("""DO $$ BEGIN
        IF EXISTS (SELECT FROM archived_orders) THEN
            RAISE EXCEPTION 'archived orders would be lost; export and delete them first';
        END IF;
    END $$""")
    op.drop_table("archived_orders")
    op.drop_table("actions")
    op.drop_index(CLAIM, "orders")
    op.add_column("orders", sa.Column("lease_until", sa.DateTime(timezone=True)))
    # Orders that are held back, or whose start is later, stay held: they get a lease until then.
    op.execute("UPDATE orders SET lease_until = offer_at WHERE attempt > 0 OR offer_at > now()")
    for name in ("priority", "offer_at", "bytes"):
        op.drop_column("orders", name)
    op.create_index("orders_agent_id_position_idx", "orders", ["agent_id", "position"])
    op.drop_index(ROLLING, "commands")
    op.add_column("commands", sa.Column("target_id", sa.Text))
    op.execute("UPDATE commands SET target_id = array_to_string(target_ids, ',')")
    op.alter_column("commands", "target_id", nullable=False)
    for name in (
        "target_ids",
        "target_filter",
        "priority",
        "orders",
        "retry_of",
        "phase",
        "phase_reason",
        "rollout",
        "rollout_credit",
        "rolled_at",
        "resumed_at",
        "starts_at",
    ):
        op.drop_column("commands", name)
    op.drop_column("agents", "labels")
