"""Texts and models through the whole workflow: nothing of them is run, and it says what was found."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch

LLAMA = "results/checkpoints/tiny-llama/final/model.safetensors"


class Trap:
    """A pickle that leaves a marker when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (self.marker, "w")


def test_texts_of_a_study_are_texts_everywhere(clone: Any, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    text = f"<script>alert('x')</script> {{study}} {{nothing}} $(touch {marker}) `touch {marker}`; touch {marker} \"'"
    clone.configure(lambda c: c.update(title=text))
    clone.configure(lambda c: c["registries"]["tasks"]["tiny-perplexity"].update(label=text))
    clone.configure(lambda c: [claim.update(claim=text) for claim in c["findings"]])
    clone.run()
    assert not marker.exists()
    page = (clone.work / "results/studies/tiny/report.html").read_text()
    assert "<script>alert" not in page
    heading = re.search(r"<h1>(.*?)</h1>", page, re.DOTALL)
    assert heading is not None and unescape(heading[1]) == text
    assert "alert" in (clone.work / "results/studies/tiny/summary.txt").read_text()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_checkpoint_and_beside_it_is_not_run(fresh: Any, tmp_path: Path) -> None:
    marker, folder = tmp_path / "marker", fresh.work / "llama"
    (folder / "model.safetensors").unlink()
    torch.save({"model.embed_tokens.weight": Trap(marker)}, folder / "pytorch_model.bin")
    (folder / "modeling_llama.py").write_text(f"open({str(marker)!r}, 'w')\n")
    result = fresh.snakemake(LLAMA)
    printed = result.stdout + result.stderr
    assert result.returncode != 0
    assert not marker.exists()
    assert "Traceback" not in printed
    assert "tiny-llama.source, file pytorch_model.bin: found a checkpoint that cannot be read" in printed
    assert "a pickle of tensors only" in printed and "To mend:" in printed
    assert not (fresh.work / LLAMA).exists()
