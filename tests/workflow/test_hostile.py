"""Studies and models of strangers through the whole workflow: nothing of theirs is run, and it says what was found."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tiny import ROOT

LLAMA = "results/checkpoints/tiny-llama/final/model.safetensors"


class Trap:
    """A pickle that leaves a marker when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (self.marker, "w")


def refusal(clone: Any, *arguments: str) -> str:
    """Run, expect a failure without a traceback, return what was printed."""
    result = clone.snakemake(*arguments)
    printed: str = result.stdout + result.stderr
    assert result.returncode != 0
    return printed


def test_a_study_file_is_data(fresh: Any, tmp_path: Path) -> None:
    marker, study = tmp_path / "marker", fresh.study_file.read_text()
    for code in (f"?open({str(marker)!r}, 'w')", f"__definitions__:\n- open({str(marker)!r}, 'w')"):
        key = "" if code.startswith("__") else "title: "
        fresh.study_file.write_text(f"__use_yte__: true\n{key}{code}\n{study.replace('title: A tiny study', '')}")
        printed = refusal(fresh, "--dry-run")
        assert not marker.exists(), printed
        assert "study.yaml, key __use_yte__: found a study with Python code" in printed
        assert "To mend: remove the key" in printed
    fresh.study_file.write_text(f"{study}weights: !!python/object/apply:os.system [touch {marker}]\n")
    printed = refusal(fresh, "--dry-run")
    assert not marker.exists()
    assert "not valid JSON or YAML" in printed
    pairs = ", ".join(f"k{j}: *a" for j in range(9))
    lines = [f"a{i}: &a{i} {{{pairs.replace('*a', f'*a{i - 1}')}}}" for i in range(1, 12)]
    fresh.study_file.write_text("\n".join(["a0: &a0 {x: y}", *lines]))
    assert "aliases repeat more than a million values" in refusal(fresh, "--dry-run")


def test_every_profile_reads_study_files_as_data() -> None:
    profiles = [ROOT / "profiles/default/config.yaml", *sorted((ROOT / "config/profiles").glob("*/config.yaml"))]
    settings = [yaml.safe_load(path.read_text()) for path in profiles]
    assert len(profiles) >= 3
    for path, found in zip(profiles, settings, strict=True):
        assert found["__use_yte__"] is True, path
        assert found["__definitions__"] == settings[0]["__definitions__"], path
    assert "yaml.SafeLoader" in settings[0]["__definitions__"][0]


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
    printed = refusal(fresh, LLAMA)
    assert not marker.exists()
    assert "Traceback" not in printed
    assert "tiny-llama.source, file pytorch_model.bin: found a checkpoint that cannot be read" in printed
    assert "a pickle of tensors only" in printed and "To mend:" in printed
    assert not (fresh.work / LLAMA).exists()
