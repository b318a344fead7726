"""The site of the documents: `make docs` builds it. The source folder is the repository, so links work in both."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]

project = "comms-api"
version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
root_doc = "docs/index"
include_patterns = [
    "*.md",
    "docs/*.md",
    "docs/**/*.md",
    "examples/**/*.md",
]
extensions = ["myst_parser"]
myst_heading_anchors = 4
myst_links_external_new_tab = False
suppress_warnings = [
    "misc.highlighting_failure",  # Pygments has no Mermaid
    "toc.not_included",  # a page outside the navigation is still found by links and by the search
]

html_theme = "furo"
html_title = f"comms-api {version}"
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
html_theme_options = {"top_of_page_buttons": []}
html_static_path = ["static"]
html_css_files = ["comms-api.css"]
