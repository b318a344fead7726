"""The options of commands that run on a node, with the node's settings."""

from pathlib import Path

import click

CONFIG = click.option(
    "--config", type=click.Path(dir_okay=False, path_type=Path), help="Read settings from a TOML file."
)
DATA_DIR = click.option(
    "--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Folder for data and secrets."
)
