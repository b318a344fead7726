"""The revisions of the schema, without Alembic, which a serving node does not hold in memory."""

from pathlib import Path

from sqlalchemy import text

from comms_api.database.connection import Connection

_FIND_REVISION = text("SELECT version_num FROM alembic_version")


def migrations_folder() -> Path:
    """Return the folder of the revisions: in the checkout, or inside the installed package."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "migrations"
    return installed if installed.exists() else package.parent / "migrations"


def newest_revision() -> str:
    """Return the newest revision of this release; revisions are numbered, and files begin with the number."""
    return max(path.name.partition("_")[0] for path in (migrations_folder() / "versions").glob("[0-9]*.py"))


async def find_revision(connection: Connection) -> str | None:
    """Return the revision of the schema, or None if the schema is empty."""
    revision: str | None = await connection.scalar(_FIND_REVISION)
    return revision
