"""`comms-api migrate`: move the schema of the database to a revision."""

import asyncio
from pathlib import Path

import click
import msgspec

from comms_api.cli.shared.node_options import CONFIG, DATA_DIR
from comms_api.database.connect import database
from comms_api.database.failures import requiring_database
from comms_api.database.migrate import list_missing, move_schema, preview_move
from comms_api.settings import Settings, current_settings


@click.command(context_settings={"show_default": True})
@click.option("--to", "revision", default="head", metavar="REVISION", help="Revision to move to, older or newer.")
@click.option("--check", is_flag=True, help="Change nothing; list the missing revisions, with exit code 1 if any.")
@click.option("--sql", is_flag=True, help="Change nothing; print the statements. PostgreSQL runs them and rolls back.")
@CONFIG
@DATA_DIR
def migrate(revision: str, config: Path | None, data_dir: Path | None, *, check: bool, sql: bool) -> None:
    """Upgrade the schema of the database, as `comms-api serve` does when it starts.

    Run this on a node, with the node's settings. `--to base` deletes all tables with their data.
    """
    if check and sql:
        raise click.UsageError("--check and --sql exclude each other")
    settings = current_settings(config, data_dir=data_dir)
    lines, code = asyncio.run(_migrate(settings, revision, check=check, sql=sql))
    for line in lines:
        click.echo(line)
    click.get_current_context().exit(code)


async def _migrate(settings: Settings, revision: str, *, check: bool, sql: bool) -> tuple[list[str], int]:
    """Return the lines to print and the exit code."""
    with requiring_database():
        async with database(settings, msgspec.json.decode) as engine:
            if check:
                missing = await list_missing(engine)
                return [f"missing: {one}" for one in missing] or ["the schema is current"], int(bool(missing))
            if sql:
                statements = await preview_move(engine, revision)
                return ["BEGIN;", *(f"{statement.rstrip(';')};" for statement in statements), "COMMIT;"], 0
            await move_schema(engine, revision)
            return [f"the schema is at revision {revision}"], 0
