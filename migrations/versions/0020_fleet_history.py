"""Record enrollments, removals, blocks, moves, changes of status and of nodes as events of the fleet.

Revision: 0020, after 0019
"""

import sqlalchemy as sa
from alembic import op

from comms_api.database.migrate import replace_in_function

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

MOVING = "displaced_poll_at,user_agent%s}'"
RECORDED = """    RETURN NULL;
END"""
NOTED = f"""    IF TG_TABLE_NAME IN ('agents', 'group_members') THEN
        PERFORM note_fleet_change(TG_TABLE_NAME, TG_OP, old_row, new_row);
    END IF;
{RECORDED}"""

# The trigger of the audit trail calls it for each change that it records, in the transaction of the change.
NOTE_FLEET_CHANGE = """
CREATE FUNCTION note_fleet_change(subject text, operation text, old_row jsonb, new_row jsonb)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    row jsonb := coalesce(new_row, old_row);
    actor jsonb := jsonb_strip_nulls(jsonb_build_object('by', nullif(current_setting('comms_api.actor', true), '')));
BEGIN
    IF subject = 'group_members' THEN  -- the memberships of a deleted agent end with it, without an event
        INSERT INTO outbox (kind, agent_id, agent_name, details)
        SELECT 'moved', id, name, actor || jsonb_build_object(
            CASE operation WHEN 'INSERT' THEN 'joined' ELSE 'left' END, row ->> 'group_name')
        FROM agents WHERE id = (row ->> 'agent_id')::uuid;
    ELSIF operation <> 'UPDATE' OR old_row -> 'is_blocked' <> new_row -> 'is_blocked' THEN
        INSERT INTO outbox (kind, agent_id, agent_name, details)
        VALUES (CASE operation WHEN 'INSERT' THEN 'enrolled' WHEN 'DELETE' THEN 'removed' ELSE
            CASE WHEN (row ->> 'is_blocked')::boolean THEN 'blocked' ELSE 'unblocked' END END,
            (row ->> 'id')::uuid, row ->> 'name', actor);
    END IF;
END $$"""

NOTE_NODE_CHANGE = """
CREATE FUNCTION note_node_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO outbox (kind, node, details)
    VALUES (CASE WHEN OLD.lost_at IS NULL AND NEW.lost_at IS NOT NULL THEN 'node_lost'
        WHEN OLD.lost_at IS NOT NULL AND NEW.lost_at IS NULL THEN 'node_returned'
        WHEN NEW.state = 'draining' THEN 'node_draining' ELSE 'node_resumed' END,
        NEW.name, jsonb_build_object('worker', NEW.worker));
    RETURN NULL;
END $$"""


def upgrade() -> None:
    op.add_column("agents", sa.Column("recorded_status", sa.Text, comment="the status of its last event"))
    # Agents that exist already have none: the first status that is recorded for them is no event.
    op.alter_column("agents", "recorded_status", server_default="never_connected")
    op.add_column("nodes", sa.Column("lost_at", sa.DateTime(timezone=True), comment="when its loss was recorded"))
    op.create_table(
        "fleet_checks",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("checked_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    )
    op.execute(NOTE_FLEET_CHANGE)
    op.execute(NOTE_NODE_CHANGE)
    op.execute(
        "CREATE TRIGGER note_node_change AFTER UPDATE OF state, lost_at ON nodes FOR EACH ROW"
        " WHEN (OLD.state <> NEW.state OR (OLD.lost_at IS NULL) <> (NEW.lost_at IS NULL))"
        " EXECUTE FUNCTION note_node_change()"
    )
    replace_in_function(op.get_bind(), "record_change", (MOVING % "", MOVING % ",recorded_status"), (RECORDED, NOTED))


def downgrade() -> None:
    replace_in_function(op.get_bind(), "record_change", (MOVING % ",recorded_status", MOVING % ""), (NOTED, RECORDED))
    op.execute("DROP TRIGGER note_node_change ON nodes")
    op.execute("DROP FUNCTION note_node_change()")
    op.execute("DROP FUNCTION note_fleet_change(text, text, jsonb, jsonb)")
    op.drop_table("fleet_checks")
    op.drop_column("nodes", "lost_at")
    op.drop_column("agents", "recorded_status")
