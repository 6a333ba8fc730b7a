"""Every kind of figure has a function that draws it, and a caption."""

from __future__ import annotations

from pathlib import Path

from essential_sparsity.report.figures.kinds import KINDS, caption


def test_every_kind_is_drawn_and_explained(root: Path) -> None:
    script = (root / "workflow" / "scripts" / "plot.py").read_text()
    for kind in KINDS:
        assert f"figures.{kind} import plot_{kind}\n" in script
        assert caption(kind).startswith("How to read it: ")
        assert "Take care: " in caption(kind)
