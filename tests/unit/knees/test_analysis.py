"""The table of knees: per seed and for the mean, the dense model shared, doubts carried along."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import entries
from essential_sparsity.knees.analysis import find_knees, headline
from essential_sparsity.knees.curves import curves
from essential_sparsity.knees.tables import KNEES
from essential_sparsity.metrics.registry import DENSE_AT_CHANCE
from essential_sparsity.tables import stack

SETTINGS = entries.knees(rules=["tolerance", "kneedle", "two-segment"])
LEVELS = np.round(np.arange(0.1, 1.0, 0.1), 3)


def rows(
    method: str, values: dict[float, float], seed: int = 0, metric: str = "accuracy", flags: str = "",
    model: str = "m", checkpoint: str = "final",
) -> pd.DataFrame:  # fmt: skip
    """Rows of evaluations, with the columns that knees are read from."""
    return pd.DataFrame(
        [
            {
                "model": model, "checkpoint": checkpoint, "method": method, "task": "t", "metric": metric,
                "sparsity": sparsity, "value": value, "seed": seed, "flags": flags,
                "chance": 49152.0 if metric == "perplexity" else 0.5, "n": 1000, "protocol": "perplexity",
                "score": None if method == "dense" else "magnitude",
            }
            for sparsity, value in values.items()
        ]
    )  # fmt: skip


def cliff(last: float, top: float = 0.9, bottom: float = 0.5) -> dict[float, float]:
    """Accuracy that is level up to and with ``last`` and falls to the bottom after it."""
    return {float(s): top if s <= last + 1e-9 else bottom for s in LEVELS}


def only(knees: pd.DataFrame, **axes: Any) -> pd.Series:
    for key, value in axes.items():
        knees = knees[knees[key].isna() if value is None else knees[key] == value]
    assert len(knees) == 1, knees
    return knees.iloc[0]


def test_every_method_starts_at_the_one_dense_model() -> None:
    # Perplexity: one dense row for two methods, of which one draws and has two seeds.
    falling = {float(s): math.exp(3.0 + 4 * s) for s in LEVELS}
    evaluations = pd.concat(
        [
            rows("dense", {0.0: math.exp(3.0)}, metric="perplexity"),
            rows("magnitude", falling, metric="perplexity"),
            rows("random", falling, seed=0, metric="perplexity"),
            rows("random", falling, seed=1, metric="perplexity"),
        ]
    )
    found = {axes["method"]: frame for axes, frame in curves(evaluations)}
    assert set(found) == {"magnitude", "random"}
    assert found["magnitude"].groupby("seed")["sparsity"].apply(list).to_dict() == {0: [0.0, *LEVELS]}
    assert found["random"].groupby("seed")["sparsity"].apply(list).to_dict() == {s: [0.0, *LEVELS] for s in (0, 1)}
    knees = find_knees(evaluations, SETTINGS)
    assert set(knees["method"]) == {"magnitude", "random"}, "the dense model has no curve of its own"
    np.testing.assert_allclose(knees["dense_value"], math.exp(3.0))


def test_a_seed_takes_its_own_dense_model() -> None:
    evaluations = pd.concat(
        [rows("dense", {0.0: 0.9 + seed / 100}, seed) for seed in (0, 1)] + [rows("m", cliff(0.5), s) for s in (0, 1)]
    )
    knees = find_knees(evaluations, SETTINGS)
    dense = knees[knees["rule"] == "tolerance"].set_index("seed")["dense_value"]
    assert dense.loc[0] == pytest.approx(0.90)
    assert dense.loc[1] == pytest.approx(0.91)
    assert dense[dense.index.isna()].item() == pytest.approx(0.905), "the mean curve starts at the mean"


def test_knees_are_read_for_each_seed_and_for_the_mean_curve() -> None:
    evaluations = pd.concat(
        [
            *[rows("dense", {0.0: 0.9}, seed) for seed in (0, 1)],
            rows("m", cliff(0.4, bottom=0.8), 0),
            rows("m", cliff(0.6, bottom=0.8), 1),
        ]
    )
    knees = find_knees(evaluations, SETTINGS)
    assert len(knees) == 3 * 3, "three rules; two seeds and the mean"
    # 2 % of 0.9 are 0.018, of a fall by 0.1 over a step of 0.1.
    assert only(knees, rule="tolerance", seed=0)["knee"] == pytest.approx(0.418)
    assert only(knees, rule="tolerance", seed=1)["knee"] == pytest.approx(0.618)
    mean = only(knees, rule="tolerance", seed=None)
    # The mean falls by 0.05 only.
    assert mean["knee"] == pytest.approx(0.436)
    assert mean[["grid_low", "grid_high"]].tolist() == pytest.approx([0.4, 0.5])
    assert knees.loc[knees["rule"] != "tolerance", ["grid_low", "grid_high"]].isna().all(axis=None)
    assert mean["n_seeds"] == 2
    assert only(knees, rule="tolerance", seed=1)["n_seeds"] == 1


def test_the_value_at_the_knee_is_in_the_unit_of_the_metric() -> None:
    falling = {float(s): math.exp(3.0 + 4 * max(0.0, s - 0.5)) for s in LEVELS}
    evaluations = pd.concat(
        [rows("dense", {0.0: math.exp(3.0)}, metric="perplexity"), rows("m", falling, metric="perplexity")]
    )
    knees = find_knees(evaluations, SETTINGS)
    joint = only(knees, rule="two-segment", seed=0)
    assert joint["knee"] == pytest.approx(0.5, abs=0.01)
    assert joint["value_at_knee"] == pytest.approx(math.exp(3.0), rel=0.05)


def test_perplexity_is_read_on_the_scale_of_its_logarithm() -> None:
    # 2 % of ln 100 are 0.092 nats: up to perplexity 109.6. On perplexity itself the bound would be 102.
    values = {0.1: 105.0, 0.2: 109.0, 0.3: 110.0, 0.4: 400.0}
    evaluations = pd.concat([rows("dense", {0.0: 100.0}, metric="perplexity"), rows("m", values, metric="perplexity")])
    found = only(find_knees(evaluations, SETTINGS), rule="tolerance", seed=0)
    share = (1.02 * math.log(100) - math.log(109)) / math.log(110 / 109)
    assert found["knee"] == pytest.approx(0.2 + 0.1 * share)
    assert found["value_at_knee"] == pytest.approx(100**1.02), "the tolerated perplexity, by definition"


@pytest.mark.parametrize(
    ("metric", "dense", "bound"),
    # Of the distance to chance, 10 %: 0.9 to 0.5, and in nats ln 100 to ln 49,152.
    [("accuracy", 0.9, 0.86), ("perplexity", 100.0, 100 * 491.52**0.1)],
)
def test_a_loss_above_chance_is_told_what_chance_is(metric: str, dense: float, bound: float) -> None:
    values = {0.1: dense, 0.2: 0.6 if metric == "accuracy" else 1e4, 0.3: 0.5 if metric == "accuracy" else 2e4}
    evaluations = pd.concat([rows("dense", {0.0: dense}, metric=metric), rows("m", values, metric=metric)])
    found = find_knees(evaluations, replace(SETTINGS, rules=["tolerance"], tolerance=0.1, loss="above_chance"))
    assert found["value_at_knee"].tolist() == pytest.approx([bound, bound])


def test_a_value_that_is_missing_leaves_the_knee_of_its_curve_null() -> None:
    missing = cliff(0.5) | {0.3: math.nan}
    dense = [rows("dense", {0.0: 0.9}, seed) for seed in (0, 1)]
    one = find_knees(pd.concat([*dense, rows("m", missing, 0), rows("m", cliff(0.5), 1)]), SETTINGS)
    assert set(one.loc[one["seed"] == 0, "flags"]) == {"no finite value at 30 %"}
    assert one.loc[one["seed"] == 0, "knee"].isna().all()
    assert one.loc[one["seed"] == 1, "flags"].eq("").any()
    assert one.loc[one["seed"].isna(), "flags"].str.contains("levels with different seeds").all()
    both = find_knees(pd.concat([*dense, *(rows("m", missing, seed) for seed in (0, 1))]), SETTINGS)
    assert both["knee"].isna().all()
    assert set(both["flags"]) == {"no finite value at 30 %"}


def test_a_dense_model_at_chance_is_flagged_on_its_own_curves_alone() -> None:
    evaluations = pd.concat(
        [
            rows("dense", {0.0: 0.5}, 0, flags=DENSE_AT_CHANCE),
            rows("dense", {0.0: 0.9}, 1),
            *[rows("m", cliff(0.5), seed) for seed in (0, 1)],
            rows("dense", {0.0: 0.9}, model="other"),
            rows("m", cliff(0.5), model="other"),
        ]
    )
    knees = find_knees(evaluations, SETTINGS)
    tolerance = knees[knees["rule"] == "tolerance"]
    flags = {(r.model, None if pd.isna(r.seed) else r.seed): r.flags for r in tolerance.itertuples()}
    assert flags == {
        ("m", 0): DENSE_AT_CHANCE, ("m", 1): "", ("m", None): DENSE_AT_CHANCE, ("other", 0): "", ("other", None): "",
    }  # fmt: skip


def test_flags_of_the_dense_model_and_of_the_rule_are_joined() -> None:
    flat = {float(s): 0.5 for s in LEVELS}
    evaluations = pd.concat([rows("dense", {0.0: 0.5}, flags=DENSE_AT_CHANCE), rows("m", flat)])
    found = only(find_knees(evaluations, SETTINGS), rule="kneedle", seed=0)
    assert found["flags"] == f"{DENSE_AT_CHANCE}; flat curve"
    assert math.isnan(found["knee"])
    assert math.isnan(found["value_at_knee"])


def test_a_missing_dense_model_gives_null_with_the_reason() -> None:
    knees = find_knees(rows("m", cliff(0.5)), SETTINGS)
    assert knees["knee"].isna().all()
    assert knees["dense_value"].isna().all()
    assert set(knees["flags"]) == {"no dense value"}


def test_curves_of_checkpoints_and_models_are_apart() -> None:
    evaluations = pd.concat(
        [
            *[rows("dense", {0.0: 0.9}, checkpoint=c) for c in ("step000000", "step000100")],
            rows("m", cliff(0.3), checkpoint="step000000"),
            rows("m", cliff(0.7), checkpoint="step000100"),
        ]
    )
    knees = find_knees(evaluations, SETTINGS)
    assert only(knees, rule="tolerance", seed=0, checkpoint="step000000")["grid_low"] == pytest.approx(0.3)
    assert only(knees, rule="tolerance", seed=0, checkpoint="step000100")["grid_low"] == pytest.approx(0.7)


def test_the_rows_fit_the_schema_and_follow_the_settings() -> None:
    evaluations = pd.concat([rows("dense", {0.0: 0.9}), rows("m", cliff(0.5))])
    knees = find_knees(evaluations, replace(SETTINGS, rules=["two-segment"]))
    assert set(knees["rule"]) == {"two-segment"}
    checked = KNEES.typed(knees)
    assert len(checked) == 2
    assert checked["seed"].isna().sum() == 1
    strict = find_knees(evaluations, replace(SETTINGS, tolerance=0.5))
    assert only(strict, rule="tolerance", seed=0)["censored"] == "right"


def test_the_headline_shows_how_far_the_rules_disagree() -> None:
    evaluations = pd.concat([rows("dense", {0.0: 0.9}), rows("m", cliff(0.5))])
    knees = find_knees(evaluations, SETTINGS)
    line = headline(knees, "tolerance")
    mean = knees[knees["seed"].isna()]
    # 0.018 of a fall by 0.4.
    assert line["knee"].tolist() == pytest.approx([0.5045])
    assert line["lowest"].item() == mean["knee"].min()
    assert line["highest"].item() == mean["knee"].max()


def test_no_evaluations_give_no_knees() -> None:
    knees = find_knees(rows("dense", {0.0: 0.9}), SETTINGS)
    assert len(stack([knees] if len(knees) else [], KNEES)) == 0
