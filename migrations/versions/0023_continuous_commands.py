"""Queue the agents that may match a continuous command since they changed.

Revision: 0023, after 0022
"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

# Triggers see every change, whichever program makes it, and queue it in its transaction.
FUNCTIONS = (
    """CREATE FUNCTION note_new_agents() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO changed_agents (agent_id) SELECT id FROM added;
    RETURN NULL;
END $$""",
    """CREATE FUNCTION note_members() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO changed_agents (agent_id) SELECT DISTINCT agent_id FROM added;
    RETURN NULL;
END $$""",
    """CREATE FUNCTION note_changed_agent() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO changed_agents (agent_id) VALUES (NEW.id);
    RETURN NULL;
END $$""",
)
TRIGGERS = (
    """CREATE TRIGGER note_new_agents AFTER INSERT ON agents REFERENCING NEW TABLE AS added
        FOR EACH STATEMENT EXECUTE FUNCTION note_new_agents()""",
    """CREATE TRIGGER note_members AFTER INSERT ON group_members REFERENCING NEW TABLE AS added
        FOR EACH STATEMENT EXECUTE FUNCTION note_members()""",
    # Logins and sightings do not name these columns, so they do not run the trigger.
    """CREATE TRIGGER note_changed_agent AFTER UPDATE OF name, version, host, labels ON agents FOR EACH ROW
        WHEN ((OLD.name, OLD.version, OLD.host::text, OLD.labels::text)
            IS DISTINCT FROM (NEW.name, NEW.version, NEW.host::text, NEW.labels::text))
        EXECUTE FUNCTION note_changed_agent()""",
)


def upgrade() -> None:
    op.add_column("commands", sa.Column("continues_until", sa.DateTime(timezone=True)))
    op.execute("CREATE INDEX commands_continuous_idx ON commands (continues_until) WHERE continues_until IS NOT NULL")
    op.create_table(
        "continuous_recipients",
        sa.Column("request_id", sa.Uuid, primary_key=True),
        sa.Column("agent_id", sa.Uuid, primary_key=True),
    )
    op.create_table(
        "changed_agents",
        sa.Column("number", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("agent_id", sa.Uuid, nullable=False),
    )
    for statement in FUNCTIONS + TRIGGERS:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP FUNCTION note_new_agents, note_members, note_changed_agent CASCADE")
    op.drop_table("changed_agents")
    op.drop_table("continuous_recipients")
    op.drop_column("commands", "continues_until")
