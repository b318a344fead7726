"""Find clones of agents: processes whose nonces alternate at logins.

Revision: 0029, after 0028
"""

import sqlalchemy as sa
from alembic import op

from comms_api.database.migrate import replace_in_function

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

MOVING = "dropped_events,last_error,hidden_at%s}'"
ADDED = ",instances,instanced_at,cloned_at,younger_instance"

# A single agent never returns to an older nonce, so A, B, A, B are two processes. The one that came first is the older.
# An agent can invent nonces, so proofs that follow one another within ten minutes are one event.
NOTE_INSTANCE = """
CREATE FUNCTION note_instance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.instances := NEW.instances[greatest(1, cardinality(NEW.instances) - 3):];
    IF cardinality(NEW.instances) <> 4 OR NEW.instances[1] <> NEW.instances[3] OR NEW.instances[2] <> NEW.instances[4]
    THEN
        RETURN NEW;
    END IF;
    NEW.cloned_at := now();
    IF NEW.younger_instance = ANY(NEW.instances) THEN
        RETURN NEW;
    END IF;
    NEW.younger_instance := NEW.instances[2];
    IF OLD.cloned_at IS NULL OR OLD.cloned_at < now() - interval '10 minutes' THEN
        INSERT INTO outbox (kind, agent_id, agent_name, node, details) VALUES ('cloned', NEW.id, NEW.name, NEW.node,
            json_build_object('older', NEW.instances[1], 'younger', NEW.instances[2],
                'address_before', OLD.remote_address, 'address', NEW.remote_address));
    END IF;
    RETURN NEW;
END $$"""


def upgrade() -> None:
    instances = sa.Column("instances", sa.ARRAY(sa.Text), nullable=False, server_default=sa.text("'{}'"))
    instances.comment = "the nonces of its last processes that logged in, newest last; at most four"
    op.add_column("agents", instances)
    op.add_column("agents", sa.Column("instanced_at", sa.DateTime(timezone=True), comment="when the newest came"))
    op.add_column("agents", sa.Column("cloned_at", sa.DateTime(timezone=True), comment="the last proof of a clone"))
    op.add_column("agents", sa.Column("younger_instance", sa.Text, comment="the clone that came later"))
    op.execute(NOTE_INSTANCE)
    op.execute(
        "CREATE TRIGGER note_instance BEFORE UPDATE OF instances ON agents FOR EACH ROW"
        " WHEN (cardinality(OLD.instances) <> cardinality(NEW.instances)) EXECUTE FUNCTION note_instance()"
    )
    replace_in_function(op.get_bind(), "record_change", (MOVING % "", MOVING % ADDED))


def downgrade() -> None:
    replace_in_function(op.get_bind(), "record_change", (MOVING % ADDED, MOVING % ""))
    op.execute("DROP TRIGGER note_instance ON agents")
    op.execute("DROP FUNCTION note_instance()")
    for name in ("younger_instance", "cloned_at", "instanced_at", "instances"):
        op.drop_column("agents", name)
