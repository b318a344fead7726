"""The plots show the latest measurements."""

from pathlib import Path

import msgspec
import pytest

from bench.plots import draw
from bench.report import RAW, write_raw


def test_a_figure_is_drawn_and_a_plot_without_data_is_unchanged(tmp_path: Path) -> None:
    (tmp_path / "rest.json").write_bytes(msgspec.json.encode({"values": {"rest_mb": 57.25}}))
    (tmp_path / "growth-events.svg").write_text("as it was")
    draw(tmp_path, tmp_path)
    assert "57.2 (≤ 60)" in (tmp_path / "figures.svg").read_text()
    assert (tmp_path / "growth-events.svg").read_text() == "as it was"


def test_the_figures_that_a_run_wrote_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_raw("rest", {"values": {"rest_mb": 57.25}})
    draw(RAW, tmp_path)
    assert "57.2 (≤ 60)" in (tmp_path / "figures.svg").read_text()
