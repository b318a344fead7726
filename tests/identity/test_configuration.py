"""YAML group files: ambiguous files are refused at upload; a merge keeps every scalar as written."""

from typing import Any

import httpx
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.server import Server

from comms_api.errors import Invalid
from comms_api.files.configuration import DEPTH_MAXIMUM, Map, Node, Scalar, merge, read_yaml, write_yaml

PLAIN = [
    "22:30",
    "0644",
    "1.10",
    "22:22",
    "yes",
    "012",
    "1e3",
    "2001-12-14",
    "~",
    "x",
    "a b",
    "0o17",
    "1_000",
    ".5",
    "-1",
]
SCALARS = st.builds(Scalar, st.sampled_from(PLAIN)) | st.builds(
    Scalar, st.text(max_size=20), st.none(), st.sampled_from(["'", '"', "|"])
)


def maps(values: st.SearchStrategy[Node]) -> st.SearchStrategy[Map]:
    return st.dictionaries(SCALARS, values, max_size=4).map(
        lambda found: {key.text: (key, value) for key, value in found.items()}
    )


NODES: st.SearchStrategy[Node] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | maps(inner), max_leaves=12
)


def meaning(node: Node) -> Any:
    """Return the meaning of a node: for a scalar, its text and whether it is plain."""
    if isinstance(node, Scalar):
        return node.text, node.tag, not node.style
    if isinstance(node, list):
        return [meaning(item) for item in node]
    return [(meaning(key), meaning(value)) for key, value in node.values()]


@given(document=maps(NODES))
def test_a_document_is_written_as_it_was_read(document: Map) -> None:
    written = write_yaml(document)
    assert meaning(read_yaml("a.yml", written)) == meaning(document)
    assert write_yaml(read_yaml("a.yml", written)) == written


@given(documents=st.lists(maps(NODES), max_size=4))
def test_merging_in_steps_is_merging_at_once(documents: list[Map]) -> None:
    assert merge(documents) == merge([merge(documents[:2]), *documents[2:]])


BASE = """\
at: 22:30
mode: 0644
version: 1.10
port: 22:22
window: {from: 08:00, to: 1_0:00, "on": yes}
script: |
  first
    second
text: >-
  folded
  words
tagged: !!str 0123
binary: !!binary aGVsbG8=
anchored: &unused 1e3
empty:
list: [012, 0o14, 0x0A, ~, 'it''s', +1]
"""
MERGED = """\
at: 22:30
mode: 0644
version: 1.20
port: 22:22
window:
  from: 08:00
  to: 22:00
  "on": yes
script: |
  first
    second
text: |-
  folded words
tagged: !!str 0123
binary: !!binary aGVsbG8=
anchored: 1e3
empty: null
list:
- 012
- 0o14
- 0x0A
- ~
- 'it''s'
- +1
new: 007
"""


def test_scalars_keep_their_text_through_the_merge(server: Server, management: httpx.Client) -> None:
    above = "version: 1.20\nwindow: {to: 22:00}\nmode: ~\nnew: 007\n"
    for group, precedence, content in (("text-below", 1, BASE), ("text-above", 2, above)):
        management.post("/groups", json={"name": group, "precedence": precedence})
        assert management.put(f"/groups/{group}/files/{group}.yml", content=content).status_code == 200
    agent_id = server.enroll(management, "textual", ("text-below", "text-above"))
    answer = server.log_in(agent_id).get("/files?file_name=merged.yml")
    assert (answer.status_code, answer.text) == (200, MERGED)
    assert management.get(f"/agents/{agent_id}/configuration/merged").text == MERGED
    assert yaml.safe_load(MERGED) == yaml.safe_load(BASE) | yaml.safe_load(above) | {
        "mode": 420,
        "window": yaml.safe_load(BASE)["window"] | {"to": 1320},
    }


NO_MAP = "the top must be a map, such as `key: value`; write {} for an empty configuration"
TEXT = "write it in quotes and without a tag to make it text"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", f"line 1: {NO_MAP}"),
        ("# only\n# comments\n", NO_MAP),
        ("---\n...\n", NO_MAP),
        ("~", NO_MAP),
        ("some text", NO_MAP),
        ("- a\n- b: c", NO_MAP),
        ("a: 1\n---\nb: 2", "line 2: a second document begins"),
        ("a: 1\nb: 2\na: 3", "line 3: duplicate key 'a'"),
        ("a:\n  - b: 1\n    'b': 2", "line 3: duplicate key 'b'"),
        ("a: [1, 2", "while parsing a flow sequence that begins at line 1, column 4"),
        ("a: &a [x]\nb: *a", "line 2: aliases (*) are not supported"),
        ("a:\n  <<: {x: 1}", "line 2: merge keys (<<) are not supported"),
        ("a: &a {x: 1}\nb: {<<: *a}", "merge keys (<<) are not supported"),
        ("? [a]\n: b", "line 1: a key must be a scalar"),
        ("a: !!python/object/apply:os.system ['true']", "the tag 'tag:yaml.org,2002:python/object/apply:os"),
        ("a: !!python/name:os.system x", TEXT),
        ("!!python/dict {a: b}", "line 1: the tag"),
        ("a: !!seq {}", "line 1: the tag"),
        ("a: !local x", TEXT),
        ("a: !!bool x", TEXT),
        ("a: !!timestamp x", TEXT),
        ("b: 1\na: 2001-13-01", f"line 2: '2001-13-01' is not a valid 'timestamp'; {TEXT}"),
        ("a: 0x" + "f" * 5_000, TEXT),
        ("a: 1" + ":1" * 100_000, TEXT),
        ("a: " + "x" * 300_000, "larger than 262144 bytes"),
        ("\x00", "control characters"),
        ("? " * 25_000, "line 1: a key must be a scalar"),
        ("a:\n  " + "- " * 30_000, "line 2: nested more than 50 deep"),
        ("a: " + "[" * 40_000, "line 1: nested more than 50 deep"),
        ("a: " + "{b: " * 40_000, "line 1: nested more than 50 deep"),
    ],
)
def test_a_file_that_a_reader_could_take_differently_is_refused_with_its_line(
    management: httpx.Client, content: str, fault: str
) -> None:
    management.post("/groups", json={"name": "readers"})
    answer = management.put("/groups/readers/files/bad.yml", content=content)
    assert (answer.status_code, "bad.yml: " in answer.json()["detail"]) == (422, True)
    assert fault in answer.json()["detail"]
    assert management.get("/groups/readers/files").json() == []
    # Other files may have any content.
    assert management.put("/groups/readers/files/bad.txt", content=content).status_code == 200
    management.delete("/groups/readers/files/bad.txt")


def test_a_document_may_be_nested_as_deep_as_the_limit() -> None:
    lists = DEPTH_MAXIMUM - 1  # the top is a map
    assert read_yaml("a.yml", f"a: {'[' * lists}{']' * lists}".encode())
    with pytest.raises(Invalid, match="nested more than 50 deep"):
        read_yaml("a.yml", f"a: [{'[' * lists}{']' * lists}]".encode())
