"""The site of the documents is built without a warning, its links have targets, and it loads nothing from elsewhere."""

import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
SITE = ROOT / "build" / "site"


@pytest.fixture(scope="module", autouse=True)
def site() -> None:
    installs_seconds = 5 * PATIENCE
    built = subprocess.run(
        ["make", "docs"],  # noqa: S607 - make, from PATH
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=installs_seconds,
    )
    assert built.returncode == 0, built.stdout + built.stderr


class Page(HTMLParser):
    """The links, anchors and loaded resources of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links, self.anchors, self.resources = list[str](), set[str](), list[str]()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if "src" in values or tag == "link":
            self.resources.append(values.get("src", values.get("href", "")))
        elif tag == "a" and "href" in values:
            self.links.append(values["href"])


def test_every_link_within_the_site_has_a_target() -> None:
    pages = {path: Page(path) for path in SITE.rglob("*.html")}
    assert len(pages) > 40
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or not link.strip("#"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[target].anchors if target in pages else set[str]()
            if not target.is_file() or (parts.fragment and target in pages and unquote(parts.fragment) not in anchors):
                broken.append(f"{path.relative_to(SITE)}: {link}")
    assert broken == []


def test_no_page_loads_anything_from_another_host() -> None:
    for path in SITE.rglob("*.html"):
        assert [url for url in Page(path).resources if urlsplit(url).netloc] == [], path
    for style in SITE.rglob("*.css"):
        text = style.read_text()
        assert "@import" not in text, style
        assert "url(http" not in text.replace('"', ""), style
