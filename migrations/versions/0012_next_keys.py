"""Add an agent's next key for the rotation of its key; the audit trail omits its hash.

Revision: 0012, after 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

SECRETS = "secrets CONSTANT text[] := '{key_hash,%spassword_hash,token_hash,private_key,content}';"


def upgrade() -> None:
    op.add_column(
        "agents", sa.Column("next_key_hash", sa.LargeBinary, comment="the next key; its first use replaces key_hash")
    )
    _replace_in_record_change(SECRETS % "", SECRETS % "next_key_hash,")


def downgrade() -> None:
    _replace_in_record_change(SECRETS % "next_key_hash,", SECRETS % "")
    op.drop_column("agents", "next_key_hash")


def _replace_in_record_change(old: str, new: str) -> None:
    definition = op.get_bind().scalar(sa.text("SELECT pg_get_functiondef('record_change'::regproc)"))
    if old not in definition:
        raise RuntimeError("record_change() is not as revision 0004 made it")
    op.get_bind().exec_driver_sql(definition.replace(old, new))
