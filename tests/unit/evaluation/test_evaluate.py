"""The row of an evaluation says how the weights were chosen and what should be doubted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import entries
from essential_sparsity.errors import UserError
from essential_sparsity.evaluation.evaluate import EVALUATION, check_mask_is_of, evaluation_row
from essential_sparsity.evaluation.outcomes import Outcome
from essential_sparsity.methods.method import Method
from essential_sparsity.pruning.masks import MaskHeader

AXES = {"model": "m", "checkpoint": "step000500", "method": "x", "sparsity": "0.667", "task": "t", "seed": "0"}
PROVENANCE = {"source": "path:/m", "revision": None}
RUN = {
    "seconds": 1.0, "peak_memory_mb": 1.0, "device": "cpu", "workflow_commit": None, "torch_version": "2",
    "transformers_version": "5",
}  # fmt: skip
TASK = entries.task(metric="accuracy")
SINGULAR = "singular Hessian of a.b: damping 0.1 instead of 0.01."


def row(method: Method | None, value: float = 0.9, notes: tuple[str, ...] = ()) -> dict[str, Any]:
    outcome = Outcome(value, 100, 0.5, pd.DataFrame())
    slots = None if method is None else method.to_dict()
    frame = evaluation_row(AXES, slots, TASK, outcome, 0.6667, PROVENANCE, RUN, 2 / 3, notes)
    assert len(frame) == 1
    assert set(frame.columns) == set(EVALUATION.columns)
    found: dict[str, Any] = frame.iloc[0].to_dict()
    return found


def test_a_row_names_its_slots_and_options() -> None:
    method = Method("ria", "row", calibration="c", propagate="dense", options={"ria_power": 0.25})
    found = row(method)
    assert [found[key] for key in ("score", "scope", "calibration", "propagate")] == ["ria", "row", "c", "dense"]
    assert found["options"] == '{"ria_power":0.25}'
    assert row(Method("magnitude", "global"))["options"] is None
    assert row(Method("magnitude", "global"))["calibration"] is None
    assert {row(None)[key] for key in ("score", "scope", "update", "options")} == {None}


def test_a_row_has_the_exact_target_and_the_step() -> None:
    found = row(Method("magnitude", "row", pattern="1:3"))
    assert (found["sparsity"], found["realised_sparsity"], found["step"], found["seed"]) == (2 / 3, 0.6667, 500, 0)


def test_notes_of_the_mask_are_flags_of_the_row() -> None:
    assert (
        row(Method("sparsegpt", "row", calibration="c"), notes=(SINGULAR, "second"))["flags"] == f"{SINGULAR}; second"
    )
    assert row(Method("magnitude", "row"))["flags"] == ""


def test_only_a_dense_model_is_flagged_at_chance() -> None:
    assert row(None, value=0.51)["flags"] != ""
    assert row(None, value=0.9)["flags"] == ""
    assert row(Method("magnitude", "row"), value=0.51)["flags"] == ""


@pytest.mark.parametrize(
    "change", [{"model": "n"}, {"checkpoint": "final"}, {"method": {"score": "random"}}, {"target": 0.5}]
)
def test_a_mask_of_something_else_is_refused(change: dict[str, Any]) -> None:
    method = Method("magnitude", "global").to_dict()
    header = {"model": "m", "checkpoint": "step000500", "method": method, "seed": 0, "target": 2 / 3}
    check_mask_is_of(MaskHeader(**header), AXES, method, Path("mask"))
    with pytest.raises(UserError, match="delete this file and run again"):
        check_mask_is_of(MaskHeader(**{**header, **change}), AXES, method, Path("mask"))
