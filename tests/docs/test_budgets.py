"""The page about security names each kind of work that has its own threads, as errors do."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_kind_of_work_on_threads_has_a_row() -> None:
    sources = [path.read_text() for path in (ROOT / "comms_api").rglob("*.py")]
    names = {name for source in sources for name in re.findall(r'BoundedExecutor\(\s*"([^"]+)"', source)}
    assert "passwords" in names
    rows = set(re.findall(r"^\| ([^|]+) \|", (ROOT / "docs" / "security.md").read_text(), re.MULTILINE))
    assert names <= rows
