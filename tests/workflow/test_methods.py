"""Methods of every kind run through the workflow: calibrated, by block, planned, patterned, updated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from essential_sparsity.pruning.masks import MaskFile, read_header, read_masks

CALIBRATED = {
    "tiny-wanda": {"label": "Wanda", "score": "wanda", "scope": "row", "calibration": "pruned"},
    "tiny-wanda-dense": {"label": "Wanda, dense", "score": "wanda", "scope": "row", "calibration": "dense"},
    "tiny-owl": {"label": "OWL", "score": "wanda", "allocation": "owl", "scope": "row", "calibration": "pruned"},
    "tiny-sparsegpt": {
        "label": "SparseGPT", "score": "sparsegpt", "scope": "column-block", "update": "sparsegpt",
        "calibration": "pruned", "options": {"block_size": 8},
    },
    "tiny-two-of-four": {"label": "2:4", "score": "magnitude", "scope": "row", "pattern": "2:4"},
    "tiny-multiflow": {
        "label": "MULTIFLOW", "score": "multiflow", "allocation": "magnitude", "scope": "layer", "calibration": "dense",
    },
}  # fmt: skip


def configure(clone: Any, sparsities: list[float]) -> None:
    """Make the tiny study one of the Llama by every method above."""

    def change(config: dict[str, Any]) -> None:
        config["curves"] = [{**config["curves"][0], "methods": list(CALIBRATED), "sparsities": sparsities}]
        config["weights"] = []
        config["registries"]["methods"] = CALIBRATED
        text = {"dataset": "tiny-texts", "sequences": 6, "length": 16, "batch_size": 2}
        config["registries"]["calibrations"] = {"pruned": text, "dense": {**text, "propagate": "dense"}}

    clone.configure(change)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory, make_clone: Callable[[Path], Any]) -> Any:
    """The study of all methods, run to its end."""
    clone = make_clone(tmp_path_factory.mktemp("methods"))
    configure(clone, [0.5])
    clone.run()
    return clone


def mask_path(clone: Any, method: str, level: str = "0.500") -> Path:
    return Path(clone.work) / f"results/masks/tiny-llama/final/{method}/0/{level}.safetensors"


def test_every_row_names_its_slots(pruned: Any) -> None:
    table = pd.read_parquet(pruned.work / "results/studies/tiny/tables/evaluations.parquet").set_index("method")
    assert set(table.index) == {*CALIBRATED, "dense"}
    for name, slots in CALIBRATED.items():
        row = table.loc[name]
        for slot, value in slots.items():
            if slot not in {"label", "options"}:
                assert row[slot] == value, (name, slot)
        assert row["realised_sparsity"] == pytest.approx(0.5, abs=0.01)
    assert table.loc["tiny-wanda", "propagate"] == "pruned"
    assert table.loc["tiny-wanda-dense", "propagate"] == "dense"
    assert pd.isna(table.loc["tiny-two-of-four", "calibration"])
    assert table.loc["dense", "score":"propagate"].isna().all()


def test_inputs_of_the_pruned_blocks_change_the_masks_of_later_blocks_only(pruned: Any) -> None:
    by_block, dense = (read_masks(mask_path(pruned, name)) for name in ("tiny-wanda", "tiny-wanda-dense"))
    assert all(torch.equal(by_block[name], dense[name]) for name in by_block if ".layers.0." in name)
    assert any(not torch.equal(by_block[name], dense[name]) for name in by_block if ".layers.1." in name)


def test_a_pattern_keeps_two_of_every_four(pruned: Any) -> None:
    for keep in read_masks(mask_path(pruned, "tiny-two-of-four")).values():
        assert (keep.reshape(-1, 4).sum(1) == 2).all()


def test_rows_keep_what_they_are_asked(pruned: Any) -> None:
    header = read_header(mask_path(pruned, "tiny-owl"))
    blocks = [{round(s, 12) for n, s in header.targets.items() if f".layers.{b}." in n} for b in range(2)]
    assert [len(b) for b in blocks] == [1, 1], "OWL gives every matrix of a block the same sparsity"
    assert blocks[0] != blocks[1]
    for name, keep in read_masks(mask_path(pruned, "tiny-owl")).items():
        assert ((~keep).sum(1) == round(header.targets[name] * keep.shape[1])).all()


def test_updated_weights_lie_in_the_mask_file_and_are_what_is_evaluated(pruned: Any) -> None:
    with MaskFile(mask_path(pruned, "tiny-sparsegpt")) as file:
        assert file.header.updated
        values = {name: file.values(name) for name in file.header.shapes}
        kept = {name: int(file.keep(name).sum()) for name in file.header.shapes}
    assert {name: v.numel() for name, v in values.items() if v is not None} == kept
    rows = pd.read_parquet(pruned.work / "results/studies/tiny/tables/evaluations.parquet").set_index("method")["value"]
    assert rows["tiny-sparsegpt"] != rows["tiny-wanda"]


def test_a_level_more_plans_and_calibrates_nothing_again(pruned: Any) -> None:
    configure(pruned, [0.5, 0.7])
    try:
        planned = pruned.planned()
    finally:
        configure(pruned, [0.5])
    assert not {job for job in planned if job.startswith(("Calibrating", "Planning", "Extracting", "Listing"))}
    levels = {job for job in planned if job.startswith("Pruning")}
    assert len(levels) == len(CALIBRATED) - 1, "the pattern has one level only"
    assert all(" to 0.700 " in job for job in levels)


def test_too_short_a_text_is_named_and_leaves_nothing(fresh: Any) -> None:
    configure(fresh, [0.5])
    fresh.configure(lambda c: c["registries"]["calibrations"]["pruned"].update(sequences=100_000))
    result = fresh.snakemake(str(mask_path(fresh, "tiny-wanda").relative_to(fresh.work)))
    output = result.stdout + result.stderr
    assert result.returncode != 0
    assert "registries.calibrations.pruned, calibration text" in output
    assert "100000 sequences of 16 tokens" in output
    assert not list((fresh.work / "results" / "masks").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scope": "global", "pattern": "2:4"}, ["methods.mine.scope", "compete within groups of a row"]),
        ({"score": "wandas"}, ["methods.mine.score", "'wanda'"]),
        ({"score": "wanda", "scope": "row"}, ["methods.mine.calibration", "statistics of the inputs"]),
        ({"calibration": "nowhere"}, ["methods.mine.calibration", "'nowhere'"]),
        ({"allocation": "erk", "scope": "global"}, ["methods.mine.allocation", "divides the budget itself"]),
        ({"pattern": "4:2", "scope": "row"}, ["methods.mine.pattern", "0 < N < M"]),
    ],
)
def test_a_senseless_method_is_refused_before_any_job(fresh: Any, change: dict[str, Any], says: list[str]) -> None:
    mine = {"label": "mine", "score": "magnitude", "scope": "layer", **change}
    fresh.configure(lambda c: c["registries"].update(methods={"mine": mine}))
    result = fresh.snakemake("--dry-run")
    assert result.returncode != 0
    for text in says:
        assert text in result.stdout + result.stderr


def test_patterns_of_a_model_choose_its_matrices(fresh: Any) -> None:
    def change(config: dict[str, Any]) -> None:
        config["registries"]["models"]["tiny-llama"].update(exclude=["*.mlp.*"], include=["lm_head.weight"])

    fresh.configure(change)
    target = "results/masks/tiny-llama/final/magnitude-layer/0/0.300.safetensors"
    fresh.run(target)
    names = read_header(fresh.work / target).shapes.keys()
    assert not [name for name in names if ".mlp." in name]
    assert "lm_head.weight" in names
