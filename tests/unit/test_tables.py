"""Tables are checked on write, and nothing that breaks its schema reaches the disk."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from essential_sparsity.checkpoints.manifest import Matrix
from essential_sparsity.evaluation.tables import EVALUATIONS, EXAMPLES
from essential_sparsity.knees.curves import mean_curve
from essential_sparsity.knees.tables import KNEES, LEVELS, level_rows
from essential_sparsity.pruning.tables import LAYERS, layer_rows
from essential_sparsity.tables import stack, write_table
from schemas import SCHEMAS, columns_text
from tiny import ROOT

EVALUATION: dict[str, Any] = {
    "study": "s", "model": "m", "source": "wheel:p/f", "revision": "1.0", "checkpoint": "step000128", "step": 128,
    "method": "magnitude-global", "score": "magnitude", "allocation": "uniform", "scope": "global",
    "pattern": "unstructured", "refinement": "none", "update": "none", "compat": "exact", "calibration": None,
    "propagate": None, "options": None, "rounds": None, "sparsity": 0.3, "realised_sparsity": 0.3, "task": "t",
    "protocol": "finetune",
    "metric": "accuracy", "value": 0.9, "higher_is_better": True, "chance": 0.5, "other_metrics": None, "flags": "",
    "notes": "", "n": 10, "seed": 0,
    "seconds": 1.0, "peak_memory_mb": 1.0, "device": "cpu", "workflow_commit": None, "torch_version": "2",
    "transformers_version": "5",
}  # fmt: skip
DENSE = {
    **EVALUATION, "method": "dense", "score": None, "allocation": None, "scope": None, "pattern": None,
    "refinement": None, "update": None, "compat": None,
    "sparsity": 0.0, "realised_sparsity": 0.0, "checkpoint": "final", "step": None,
}  # fmt: skip


def test_the_tables_of_the_issue_are_declared() -> None:
    assert set(SCHEMAS) == {
        "evaluations", "knees", "curves", "differences", "layers", "weights", "trajectories", "histograms", "changes",
        "costs",
    }  # fmt: skip
    asked = (
        "study, model, source, revision, checkpoint, step, method, score, allocation, scope, pattern, "
        "refinement, update, compat, calibration, propagate, options, sparsity, "
        "realised_sparsity, task, protocol, metric, value, higher_is_better, n, seed, seconds, peak_memory_mb, device, "
        "workflow_commit, torch_version, transformers_version"
    )
    assert set(asked.split(", ")) <= set(EVALUATIONS.columns)
    asked = "model, checkpoint, method, task, metric, seed, rule, knee, censored, dense_value, value_at_knee"
    assert set(asked.split(", ")) <= set(KNEES.columns)
    assert {"name", "shape", "pruned", "reason", "target", "realised"} <= set(LAYERS.columns)
    assert all(c.description for s in SCHEMAS.values() for c in s.columns.values()), "every column says what it is"


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    frame = pd.DataFrame([DENSE, EVALUATION])[list(reversed(EVALUATION))]  # in any order of columns
    written = write_table(frame, EVALUATIONS, tmp_path / "deep" / "evaluations.parquet")
    read = pd.read_parquet(tmp_path / "deep" / "evaluations.parquet")
    pd.testing.assert_frame_equal(read, written)
    assert list(read.columns) == list(EVALUATIONS.columns)
    assert read["step"].tolist() == [pd.NA, 128]
    assert read["score"].isna().tolist() == [True, False]
    assert read["value"].dtype == np.float64
    assert read["n"].dtype == "Int64"


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_table(pd.DataFrame([DENSE, EVALUATION]), EVALUATIONS, tmp_path / f"{name}.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


BROKEN: dict[str, list[dict[str, Any]]] = {
    "sparsity above 1": [{**EVALUATION, "sparsity": 1.5}],
    "sparsity below 0": [{**EVALUATION, "realised_sparsity": -0.1}],
    "value missing": [{**EVALUATION, "value": math.nan}],
    "model missing": [{**EVALUATION, "model": None}],
    "no predictions": [{**EVALUATION, "n": 0}],
    "twice the same evaluation": [EVALUATION, {**EVALUATION, "value": 0.8}],
    "a column less": [{k: v for k, v in EVALUATION.items() if k != "metric"}],
    "a column more": [{**EVALUATION, "surprise": 1}],
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_breaks_the_schema_is_not_written(tmp_path: Path, case: str) -> None:
    with pytest.raises(ValueError, match=r"t\.parquet: table evaluations"):
        write_table(pd.DataFrame(BROKEN[case]), EVALUATIONS, tmp_path / "t.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_table(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_table(pd.DataFrame([EVALUATION]), EVALUATIONS, path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="sparsity"):
        write_table(pd.DataFrame(BROKEN["sparsity above 1"]), EVALUATIONS, path)
    assert path.read_bytes() == before


def test_a_knee_that_does_not_exist_is_null(tmp_path: Path) -> None:
    row = {
        "model": "m", "checkpoint": "final", "method": "x", "task": "t", "metric": "accuracy", "seed": pd.NA,
        "rule": "kneedle", "knee": math.nan, "grid_low": math.nan, "grid_high": math.nan, "ci_low": math.nan,
        "ci_high": math.nan, "interval": None, "censored": "none",
        "dense_value": 0.9, "value_at_knee": math.nan, "n_seeds": 2, "flags": "flat curve",
    }  # fmt: skip
    read = write_table(pd.DataFrame([row]), KNEES, tmp_path / "k.parquet")
    assert read["knee"].isna().all()
    assert read[["seed", "ci_low", "ci_high", "interval"]].isna().to_numpy().all()
    with pytest.raises(ValueError, match="censored"):
        write_table(pd.DataFrame([{**row, "censored": "perhaps"}]), KNEES, tmp_path / "k2.parquet")


@pytest.mark.parametrize("name", SCHEMAS)
def test_an_empty_table_has_the_columns(tmp_path: Path, name: str) -> None:
    write_table(stack([], SCHEMAS[name]), SCHEMAS[name], tmp_path / "t.parquet")
    read = pd.read_parquet(tmp_path / "t.parquet")
    assert list(read.columns) == list(SCHEMAS[name].columns)
    assert len(read) == 0


def test_stacking_keeps_rows_and_order() -> None:
    parts = [pd.DataFrame([{**EVALUATION, "seed": s}]) for s in (2, 0, 1)]
    assert stack(parts, EVALUATIONS)["seed"].tolist() == [2, 0, 1]


def test_examples_are_one_a_row(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"id": [3, 3], "group": ["", "b"], "label": "a", "prediction": "a", "score": 1.0, "loss": 0.1, "n": 1}
    )
    assert len(write_table(frame, EXAMPLES, tmp_path / "e.parquet")) == 2, "ids are those of a group"
    with pytest.raises(ValueError, match="id"):
        write_table(frame.assign(group=""), EXAMPLES, tmp_path / "e.parquet")


def test_the_mean_curve_is_the_mean_over_the_seeds() -> None:
    rows = pd.DataFrame({"sparsity": [0.5, 0.0, 0.5, 0.0], "value": [1.0, 4.0, 2.0, 6.0]})
    curve = mean_curve(rows)
    assert curve["sparsity"].tolist() == [0.0, 0.5]
    assert curve["value"].tolist() == [5.0, 1.5]


def test_layers_list_every_tensor_with_its_share() -> None:
    matrices = [
        Matrix("q", (4, 5), True, "linear weight in a transformer block"),
        Matrix("emb", (10, 2), False, "embedding"),
        Matrix("bias", (4,), False, "norm or bias"),
    ]
    rows = pd.DataFrame(layer_rows(matrices, {"q": 5}, {"q": 0.25}))
    assert rows["position"].tolist() == [0, 1, 2]
    assert rows["shape"].tolist() == ["4x5", "10x2", "4"]
    assert rows["realised"].tolist() == [0.25, 0.0, 0.0]
    assert rows["target"].tolist() == [0.25, 0.0, 0.0]
    free = pd.DataFrame(layer_rows(matrices, {"q": 5}, {}))
    assert math.isnan(free["target"][0]), "a global budget asks nothing of a single matrix"
    assert free["target"].tolist()[1:] == [0.0, 0.0]


def test_levels_have_a_row_for_each_of_their_rounds() -> None:
    axes = {"model": "m", "checkpoint": "final", "method": "a", "task": "t"}
    placed = {**axes, "rounds": [[0.3, 0.9], [0.5]], "low": 0.9, "high": None, "reason": "budget spent"}
    table = LEVELS.typed(pd.DataFrame(level_rows(placed)))
    assert list(zip(table["round"], table["sparsity"], strict=True)) == [(1, 0.3), (1, 0.9), (2, 0.5)]
    assert table["high"].isna().all()
    assert set(table["reason"]) == {"budget spent"}
    assert all(column.description for column in LEVELS.columns.values())
    with pytest.raises(ValueError, match="twice the same"):
        LEVELS.typed(pd.DataFrame(level_rows({**placed, "rounds": [[0.3], [0.3]]})))


def test_the_documents_list_every_column() -> None:
    text = (ROOT / "docs" / "tables.md").read_text(encoding="utf-8")
    assert text.split("## Columns\n\n")[1].split("\n## ")[0].strip() == columns_text().strip()
