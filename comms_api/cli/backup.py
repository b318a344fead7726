"""`comms-api backup` and `comms-api restore`: write a backup of a node, and restore it."""

import asyncio
import signal
import sys
from pathlib import Path

import click

from comms_api.backup.archive import SETTINGS, Archive, open_archive
from comms_api.backup.dump import back_up
from comms_api.backup.restoration import Restored
from comms_api.backup.restoration import restore as restore_archive
from comms_api.cli.shared.node_options import CONFIG, DATA_DIR
from comms_api.cli.shared.progress import count_bytes
from comms_api.database.revisions import newest_revision
from comms_api.settings import current_settings

FILE = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))


@click.command()
@FILE
@CONFIG
@DATA_DIR
def backup(file: Path, config: Path | None, data_dir: Path | None) -> None:
    """Write a backup of a node: its database, secret, certificates and settings.

    Run this on a node, with the node's settings; the node may run. FILE must not exist. It is complete and verified
    when it appears, and only its owner can read it. Whoever has it can act as the server.
    """
    _end_cleanly()
    settings = current_settings(config, data_dir=data_dir)
    manifest = asyncio.run(back_up(settings, file, count_bytes))
    origin = manifest.origin
    click.echo(
        f"{file}: {file.stat().st_size / 1e6:.1f} MB, verified: comms-api {manifest.release}, schema {origin.revision},"
        f" PostgreSQL {origin.server_major}"
    )


@click.command()
@FILE
@click.option("--check", is_flag=True, help="Change nothing; verify the backup.")
@click.option("--settings", "shows_settings", is_flag=True, help="Change nothing; print the settings of the backup.")
@click.option("--replace", is_flag=True, help="Delete the database of this node, and replace the files that it made.")
@CONFIG
@DATA_DIR
def restore(  # noqa: PLR0913 - one parameter for each option
    file: Path, config: Path | None, data_dir: Path | None, *, check: bool, shows_settings: bool, replace: bool
) -> None:
    """Restore a backup of a node.

    Run this on a node, with the settings of the new node, while no node runs. Without --replace, the database must be
    empty. A restore that fails changes nothing. Restore only files that you trust: a backup contains SQL.
    """
    _end_cleanly()
    with open_archive(file) as archive:
        archive.verify(count_bytes)
        if shows_settings:
            click.echo(archive.read(SETTINGS), nl=False)
            return
        if check:
            _describe(archive)
            return
        settings = current_settings(config, data_dir=data_dir)
        restored = asyncio.run(restore_archive(settings, archive, is_replacing=replace, watch=count_bytes))
        _describe(archive)
    _report(restored)
    if archive.manifest.origin.revision != newest_revision():
        click.echo(f"`comms-api serve` or `comms-api migrate` upgrades the schema to {newest_revision()}")


def _end_cleanly() -> None:
    """Let signals end the command like an error, so that no unfinished file stays."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: sys.exit(128 + received))


def _describe(archive: Archive) -> None:
    manifest, origin = archive.manifest, archive.manifest.origin
    click.echo(f"backup of {manifest.created_at:%Y-%m-%d %H:%M:%S} UTC, verified")
    click.echo(f"comms-api {manifest.release}, schema {origin.revision}, PostgreSQL {origin.server_major}")


def _report(restored: Restored) -> None:
    click.echo("restored: the database")
    for new in restored.files.new:
        click.echo(f"restored: {new.path}")
    for path in restored.files.kept:
        click.echo(f"kept: {path}, which differs from the backup; to restore it, remove it and restore again")
    for name in restored.files.without_setting:
        click.echo(f"not restored: the file of {name}, because the settings of this node have no place for it")
    if not restored.keeps_positions:
        click.echo("the database is in another PostgreSQL cluster: followers of events must begin again with `since`")
