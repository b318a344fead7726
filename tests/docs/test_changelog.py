"""The changelog has the groups of Keep a Changelog, each once and with entries, and no entry twice."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "CHANGELOG.md"
UNRELEASED = PAGE.read_text().partition("## Unreleased\n")[2].partition("\n## ")[0]
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Security", "Fixed"}


def test_each_group_has_a_kind_and_is_there_once() -> None:
    headings = [line for line in UNRELEASED.splitlines() if line.startswith("### ")]
    assert {heading.removeprefix("### ") for heading in headings} <= KINDS
    assert len(headings) == len(set(headings))
    for group in re.split(r"^### ", UNRELEASED, flags=re.MULTILINE)[1:]:
        areas = re.findall(r"^#### (.*)$", group, re.MULTILINE)
        assert len(areas) == len(set(areas)), group[:20]


def test_each_heading_has_entries() -> None:
    parts = re.split(r"^###+ (.*)$", UNRELEASED, flags=re.MULTILINE)
    kinds_with_areas = set(re.findall(r"^### (.*)\n\n#### ", UNRELEASED, re.MULTILINE))
    for heading, entries in zip(parts[1::2], parts[2::2], strict=True):
        assert heading in kinds_with_areas or entries.startswith("\n\n- "), heading


def test_no_entry_is_there_twice() -> None:
    begins = re.findall(r"^- (.{,50})", UNRELEASED, re.MULTILINE)
    assert [begin for begin in set(begins) if begins.count(begin) > 1] == []
