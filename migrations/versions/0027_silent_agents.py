"""Hide silent agents before they are removed, and record when no node served.

Revision: 0027, after 0026
"""

import sqlalchemy as sa
from alembic import op

from comms_api.database.migrate import replace_in_function

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

MOVING = "dropped_events,last_error%s}'"
NOTE_HIDING = """
CREATE FUNCTION note_hiding() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO outbox (kind, agent_id, agent_name, details)
    VALUES (CASE WHEN NEW.hidden_at IS NULL THEN 'returned' ELSE 'hidden' END, NEW.id, NEW.name,
        json_build_object('last_seen_at', OLD.last_seen_at));
    INSERT INTO audit (id, actor, address, operation, subject, key, before, after)
    VALUES (uuid7(), coalesce(nullif(current_setting('comms_api.actor', true), ''), 'the agent'),
        nullif(current_setting('comms_api.address', true), ''), 'update', 'agents', NEW.id::text,
        json_build_object('hidden_at', OLD.hidden_at), json_build_object('hidden_at', NEW.hidden_at));
    RETURN NULL;
END $$"""


def upgrade() -> None:
    op.add_column("agents", sa.Column("hidden_at", sa.DateTime(timezone=True), comment="when its silence was too long"))
    op.create_table(
        "fleet_outages",
        sa.Column("began_at", sa.DateTime(timezone=True), primary_key=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    )
    op.create_table(
        "fleet_actions",
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("agent_id", sa.Uuid, primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), primary_key=True, server_default=sa.func.now()),
    )
    op.execute(NOTE_HIDING)
    op.execute(
        "CREATE TRIGGER note_hiding AFTER UPDATE OF hidden_at ON agents FOR EACH ROW"
        " WHEN ((OLD.hidden_at IS NULL) <> (NEW.hidden_at IS NULL)) EXECUTE FUNCTION note_hiding()"
    )
    replace_in_function(op.get_bind(), "record_change", (MOVING % "", MOVING % ",hidden_at"))


def downgrade() -> None:
    replace_in_function(op.get_bind(), "record_change", (MOVING % ",hidden_at", MOVING % ""))
    op.execute("DROP TRIGGER note_hiding ON agents")
    op.execute("DROP FUNCTION note_hiding()")
    op.drop_table("fleet_actions")
    op.drop_table("fleet_outages")
    op.drop_column("agents", "hidden_at")
