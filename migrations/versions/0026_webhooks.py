"""Add webhooks and their deliveries; the results of orders are events for webhooks.

Revision: 0026, after 0025
"""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

SECRETS = "private_key,%scontent}';"
MOVING = "user_agent,recorded_status%s}'"
UNRECORDED = ",dropped_events,last_error"

NOTE_RESULTS = """
CREATE FUNCTION note_results() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM webhooks WHERE is_enabled AND 'order_ended' = ANY(kinds)) THEN
        INSERT INTO outbox (kind, agent_id, details)
        SELECT 'order_ended', agent_id, json_build_object('order_id', order_id, 'request_id', request_id,
            'status', status, 'outcome', outcome, 'result_code', result_code,
            'result_message', left(result_message, 1000), 'finished_at', finished_at)
        FROM ended;
    END IF;
    RETURN NULL;
END $$"""


def upgrade() -> None:
    _create_webhooks()
    _create_deliveries()
    _replace_in_record_change((SECRETS % "", SECRETS % "sealed_secret,"), (MOVING % "", MOVING % UNRECORDED))
    op.execute(
        "CREATE TRIGGER record_change AFTER INSERT OR DELETE OR UPDATE OF name, url, kinds, is_enabled, secret_version"
        " ON webhooks FOR EACH ROW EXECUTE FUNCTION record_change('name', '')"
    )
    op.execute(NOTE_RESULTS)
    op.execute(
        "CREATE TRIGGER note_results AFTER INSERT ON finished_orders REFERENCING NEW TABLE AS ended"
        " FOR EACH STATEMENT EXECUTE FUNCTION note_results()"
    )


def _create_webhooks() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("kinds", sa.ARRAY(sa.Text), nullable=False),
        sa.Column("sealed_secret", sa.LargeBinary, nullable=False, comment="encrypted with the node secret"),
        sa.Column(
            "secret_version",
            sa.Uuid,
            nullable=False,
            server_default=sa.text("uuid7()"),
            comment="changes with the secret",
        ),
        sa.Column("is_enabled", sa.Boolean, nullable=False, server_default=sa.text("true")),
        sa.Column("user_name", sa.Text, nullable=False),
        _now("created_at"),
        sa.Column("dropped_events", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("last_error", sa.Text, nullable=False, server_default=""),
    )


def _create_deliveries() -> None:
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.Uuid, primary_key=True, server_default=sa.text("uuid7()")),
        sa.Column("webhook_id", sa.Uuid, sa.ForeignKey("webhooks.id", ondelete="CASCADE"), nullable=False),
        sa.Column("content", sa.JSON, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.text("0")),
        _now("due_at"),
        sa.Column("is_dead", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.Column("last_error", sa.Text, nullable=False, server_default=""),
        _now("created_at"),
    )
    for name, column, where in (("due", "due_at", "NOT is_dead"), ("dead", "id", "is_dead")):
        op.create_index(
            f"webhook_deliveries_{name}_idx",
            "webhook_deliveries",
            ["webhook_id", column],
            postgresql_where=sa.text(where),
        )


def _now(name: str) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now())


def downgrade() -> None:
    op.execute("DROP TRIGGER note_results ON finished_orders")
    op.execute("DROP FUNCTION note_results()")
    op.drop_table("webhook_deliveries")
    op.drop_table("webhooks")
    _replace_in_record_change((SECRETS % "sealed_secret,", SECRETS % ""), (MOVING % UNRECORDED, MOVING % ""))


def _replace_in_record_change(*pairs: tuple[str, str]) -> None:
    definition = op.get_bind().scalar(sa.text("SELECT pg_get_functiondef('record_change'::regproc)"))
    for old, new in pairs:
        if old not in definition:
            raise RuntimeError("record_change() is not as the revision before left it")
        definition = definition.replace(old, new)
    op.get_bind().exec_driver_sql(definition)
