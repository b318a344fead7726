"""Identity: source addresses, blocks, group files, refresh and enrollment tokens, the audit trail.

Revision: 0004, after 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

AGENT_COLUMNS = ("external_id", "allowed_addresses", "is_blocked", "configuration", "node")

# Triggers write the audit trail in the transaction of each change. The transaction names the acting user by set_config;
# without that, the trail names the database user.
RECORD = """
CREATE FUNCTION record_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    secrets CONSTANT text[] := '{key_hash,password_hash,token_hash,private_key,content}';
    moving CONSTANT text[] := '{last_login_at,last_seen_at,remote_address,node,configuration}';
    old_row jsonb := CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END;
    new_row jsonb := CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END;
    named jsonb := coalesce(new_row, old_row);
    secret text;
BEGIN
    IF TG_OP = 'UPDATE' AND old_row - moving = new_row - moving THEN
        RETURN NULL;
    END IF;
    FOREACH secret IN ARRAY secrets LOOP
        IF TG_OP = 'UPDATE' AND old_row -> secret IS DISTINCT FROM new_row -> secret THEN
            new_row := jsonb_set(new_row, ARRAY['changed'], coalesce(new_row -> 'changed', '[]') || to_jsonb(secret));
        END IF;
    END LOOP;
    INSERT INTO audit (id, actor, address, operation, subject, key, before, after) VALUES (
        uuid7(), coalesce(nullif(current_setting('comms_api.actor', true), ''), 'database: ' || current_user),
        nullif(current_setting('comms_api.address', true), ''), lower(TG_OP), TG_TABLE_NAME,
        concat_ws('/', named ->> TG_ARGV[0], named ->> nullif(TG_ARGV[1], '')),
        old_row - secrets - moving, new_row - secrets - moving);
    RETURN NULL;
END $$"""

FORBID = """
CREATE FUNCTION forbid_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit trail is append-only';
END $$"""

RECORDED = {
    "agents": ("INSERT OR DELETE OR UPDATE OF name, key_hash, type, labels, external_id, allowed_addresses, is_blocked",
               "id", ""),
    "groups": ("INSERT OR DELETE OR UPDATE", "name", ""),
    "group_members": ("INSERT OR DELETE", "group_name", "agent_id"),
    "group_files": ("INSERT OR DELETE OR UPDATE", "group_name", "file_name"),
    "users": ("INSERT OR DELETE OR UPDATE", "name", ""),
    "actions": ("INSERT OR DELETE OR UPDATE", "name", ""),
    "enrollment_tokens": ("INSERT OR DELETE OR UPDATE", "id", ""),
    "signing_keys": ("INSERT OR DELETE", "kid", ""),
    "commands": ("INSERT OR UPDATE OF phase", "request_id", ""),
}  # fmt: skip


def upgrade() -> None:
    _widen()
    _create_group_files()
    _create_tokens()
    _create_audit()


def _widen() -> None:
    for column in (
        sa.Column("external_id", sa.Text, comment="its id in the external database, 3 to 8 digits"),
        sa.Column(
            "allowed_addresses",
            sa.ARRAY(sa.Text),
            nullable=False,
            server_default=sa.text("'{}'"),
            comment="CIDR; none: any",
        ),
        sa.Column("is_blocked", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.Column("configuration", sa.Text, comment="the hash of the group files that it reports"),
        sa.Column("node", sa.Text, comment="the node that saw it last"),
    ):
        op.add_column("agents", column)
    op.create_unique_constraint("agents_external_id_key", "agents", ["external_id"])
    precedence = sa.Column(
        "precedence",
        sa.Integer,
        nullable=False,
        server_default=sa.text("0"),
        comment="the group with the highest wins",
    )
    op.add_column("groups", precedence)


def _create_group_files() -> None:
    op.create_table(
        "group_files",
        sa.Column("group_name", sa.Text, sa.ForeignKey("groups.name", ondelete="CASCADE"), primary_key=True),
        sa.Column("file_name", sa.Text, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("is_current", sa.Boolean, nullable=False),
        sa.Column("user_name", sa.Text, nullable=False),
        _now("created_at"),
    )
    op.create_index(
        "group_files_current_idx",
        "group_files",
        ["group_name", "file_name"],
        unique=True,
        postgresql_where=sa.text("is_current"),
    )
    op.create_table(
        "configuration_changes",
        sa.Column("agent_id", sa.Uuid, primary_key=True),
        sa.Column("has_moved", sa.Boolean, nullable=False, comment="its groups have changed, and not only their files"),
        _now("changed_at"),
    )


def _create_tokens() -> None:
    op.create_table(
        "refresh_tokens",
        sa.Column("token_hash", sa.LargeBinary, primary_key=True),
        sa.Column("user_name", sa.Text, sa.ForeignKey("users.name", ondelete="CASCADE"), nullable=False),
        _now("expires_at"),
    )
    op.create_index("refresh_tokens_user_name_idx", "refresh_tokens", ["user_name"])
    op.create_table(
        "enrollment_tokens",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("token_hash", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("groups", sa.ARRAY(sa.Text), nullable=False),
        sa.Column("uses_left", sa.Integer, comment="none: any number"),
        sa.Column("user_name", sa.Text, nullable=False),
        _now("created_at"),
        _now("expires_at"),
    )


def _create_audit() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.Uuid, primary_key=True),
        _now("at"),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("address", sa.Text),
        sa.Column("operation", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False, comment="the table of the changed row"),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("before", sa.JSON),
        sa.Column("after", sa.JSON),
    )
    op.create_index("audit_subject_key_id_idx", "audit", ["subject", "key", "id"])
    op.execute(RECORD)
    op.execute(FORBID)
    for table, (events, *keys) in RECORDED.items():
        arguments = ", ".join(f"'{key}'" for key in keys)
        op.execute(
            f"CREATE TRIGGER record_change AFTER {events} ON {table} FOR EACH ROW"
            f" EXECUTE FUNCTION record_change({arguments})"
        )
    op.execute(
        "CREATE TRIGGER forbid_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit FOR EACH STATEMENT"
        " EXECUTE FUNCTION forbid_change()"
    )


def _now(name: str) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now())


def downgrade() -> None:
    for table in RECORDED:
        op.execute(f"DROP TRIGGER record_change ON {table}")
    for table in ("audit", "enrollment_tokens", "refresh_tokens", "configuration_changes", "group_files"):
        op.drop_table(table)
    op.execute("DROP FUNCTION record_change()")
    op.execute("DROP FUNCTION forbid_change()")
    op.drop_column("groups", "precedence")
    for name in AGENT_COLUMNS:
        op.drop_column("agents", name)
