"""Knees of a study with intervals from its examples: which are resampled, and what is said where they cannot be."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import entries
from essential_sparsity.evaluation.tables import EXAMPLES
from essential_sparsity.knees.analysis import ONE_SEED, TWO_SEEDS, UNEVEN_SEEDS, Analysis, analyse
from essential_sparsity.knees.samples import Examples
from essential_sparsity.knees.tables import CURVES, DIFFERENCES, KNEES
from essential_sparsity.metrics.registry import compute_metric
from essential_sparsity.tables import write_table

SETTINGS = entries.knees(rules=["tolerance", "two-segment"], draws=200)
LEVELS = (0.2, 0.4, 0.6, 0.8)
N = 120


def examples(protocol: str, sparsity: float, seed: int) -> pd.DataFrame:
    """Examples of an evaluation: easy to hard, more of them wrong at high sparsity, a few by the seed."""
    frame = pd.DataFrame({"id": np.arange(N) + 7, "group": "", "prediction": "", "label": "", "score": np.nan, "n": 1})
    wrong = np.arange(N) < N * (0.1 + 0.8 * max(0.0, sparsity - 0.5))
    if protocol == "perplexity":
        drawn = 0.02 * seed * np.cos(np.arange(N)) ** 2 if sparsity else 0.0
        return frame.assign(loss=3 + np.sin(np.arange(N)) + 2 * wrong + drawn, n=64)
    wrong |= np.random.default_rng([seed, round(100 * sparsity)]).random(N) < 0.03
    return frame.assign(label="a", prediction=np.where(wrong, "b", "a"), loss=np.nan)


Change = Callable[[pd.DataFrame], pd.DataFrame]


class Study:
    """Evaluations and the files of their examples."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, Any]] = []

    def evaluate(self, method: str, sparsity: float, protocol: str, seed: int, score: str | None) -> Path:
        metric = "perplexity" if protocol == "perplexity" else "accuracy"
        frame = examples(protocol, sparsity, seed)
        path = self.folder / "m" / "final" / method / f"{sparsity:.3f}" / protocol / f"{seed}.examples.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_table(frame, EXAMPLES, path)
        self.rows.append({
            "model": "m", "checkpoint": "final", "method": method, "task": protocol, "metric": metric,
            "sparsity": sparsity, "value": compute_metric(metric, frame, "here").value, "seed": seed, "flags": "",
            "chance": 1000.0 if metric == "perplexity" else 0.5, "n": int(frame["n"].sum()), "protocol": protocol,
            "score": score,
        })  # fmt: skip
        return path

    def curve(self, method: str, protocol: str, seeds: tuple[int, ...] = (0,)) -> list[Path]:
        return [self.evaluate(method, s, protocol, seed, method) for seed in seeds for s in LEVELS]

    def dense(self, protocol: str, seeds: tuple[int, ...] = (0,)) -> list[Path]:
        return [self.evaluate("dense", 0.0, protocol, seed, None) for seed in seeds]

    def change(self, path: Path, change: Change) -> None:
        write_table(change(pd.read_parquet(path)), EXAMPLES, path)

    def analysis(self, **settings: Any) -> Analysis:
        examples = Examples(self.folder, drawn=frozenset({"finetune", "random"}))
        found = analyse(pd.DataFrame(self.rows), replace(SETTINGS, **settings), examples)
        return Analysis(KNEES.typed(found.knees), CURVES.typed(found.curves), DIFFERENCES.typed(found.differences))

    def mean(self, rule: str = "tolerance") -> pd.Series:
        """The row of the only mean curve."""
        knees = self.analysis().knees
        (row,) = [row for _, row in knees[knees["seed"].isna() & (knees["rule"] == rule)].iterrows()]
        return row


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def test_a_deterministic_curve_has_its_examples_resampled(study: Study) -> None:
    study.dense("perplexity")
    study.curve("magnitude", "perplexity")
    found = study.mean()
    assert found["interval"] == "examples"
    assert found["ci_low"] <= found["knee"] <= found["ci_high"]
    assert found["flags"] == "", "another seed would change nothing"
    assert study.analysis().knees.groupby("rule")["ci_low"].nunique().tolist() == [1, 1], "the only seed is the mean"


def test_one_seed_of_a_task_that_draws_is_flagged(study: Study) -> None:
    study.dense("finetune")
    study.curve("magnitude", "finetune")
    found = study.mean()
    assert (found["interval"], found["flags"]) == ("examples", ONE_SEED)
    knees = study.analysis().knees
    assert not knees.loc[knees["seed"].notna(), "flags"].str.contains("one seed").any(), "a seed's curve is that seed's"


def test_one_seed_of_a_random_score_is_flagged(study: Study) -> None:
    study.dense("perplexity")
    study.curve("random", "perplexity")
    assert study.mean()["flags"] == ONE_SEED


def test_seeds_and_examples_are_resampled_where_both_vary(study: Study) -> None:
    study.dense("finetune", (0, 1, 2))
    study.curve("magnitude", "finetune", (0, 1, 2))
    knees = study.analysis().knees
    assert set(knees.loc[knees["seed"].isna() & knees["knee"].notna(), "interval"]) == {"seeds and examples"}
    assert set(knees.loc[knees["seed"].notna() & knees["knee"].notna(), "interval"]) == {"examples"}


def test_seeds_share_the_dense_model_of_a_zero_shot_task(study: Study) -> None:
    study.dense("perplexity")
    study.curve("random", "perplexity", (0, 1, 2))
    found = study.analysis().curves
    assert study.mean()["interval"] == "seeds and examples"
    dense = found[found["sparsity"] == 0].iloc[0]
    assert dense["ci_low"] < dense["value"] < dense["ci_high"]
    alone = Study(study.folder)
    alone.dense("perplexity")
    alone.curve("random", "perplexity", (0,))
    one = alone.analysis().curves
    bounds = ["ci_low", "ci_high"]
    assert dense[bounds].tolist() == one.loc[one["sparsity"] == 0, bounds].iloc[0].tolist(), "no seed adds to it"


def test_the_table_of_curves_has_every_level_with_its_interval(study: Study) -> None:
    study.dense("finetune", (0, 1))
    study.curve("magnitude", "finetune", (0, 1))
    found = study.analysis().curves
    assert found["sparsity"].tolist() == [0.0, *LEVELS]
    means = pd.DataFrame(study.rows).groupby("sparsity")["value"].mean()
    np.testing.assert_allclose(found["value"], means)
    assert (found["ci_low"] <= found["value"]).all()
    assert (found["value"] <= found["ci_high"]).all()
    assert set(found["n_seeds"]) == {2}
    assert TWO_SEEDS in study.mean()["flags"]
    assert set(found["n"]) == {N}


def test_the_order_of_rows_in_a_file_does_not_matter(study: Study) -> None:
    study.dense("perplexity")
    paths = study.curve("magnitude", "perplexity")
    before = study.mean()
    study.change(paths[2], lambda frame: frame.iloc[::-1])
    pd.testing.assert_series_equal(study.mean(), before)


def test_a_curve_has_the_same_interval_in_every_study(study: Study) -> None:
    study.dense("finetune", (0, 1, 2))
    study.curve("magnitude", "finetune", (0, 1, 2))
    alone = study.mean()
    study.curve("random", "finetune", (0, 1, 2))
    study.dense("perplexity")
    study.curve("magnitude", "perplexity")
    knees = study.analysis().knees
    chosen = (knees["method"] == "magnitude") & (knees["task"] == "finetune") & knees["seed"].isna()
    again = knees[chosen & (knees["rule"] == "tolerance")].iloc[0]
    assert (again["ci_low"], again["ci_high"]) == (alone["ci_low"], alone["ci_high"])


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        (lambda frame: frame.assign(id=frame["id"] + 1), "levels or seeds with different examples: not resampled"),
        (lambda frame: frame.assign(loss=frame["loss"] + 1), "the examples do not give the values: not resampled"),
        (lambda frame: frame.assign(loss=math.nan), "examples not resampled: "),
    ],
)
def test_examples_that_do_not_fit_are_not_resampled(study: Study, change: Change, flag: str) -> None:
    study.dense("perplexity")
    paths = study.curve("magnitude", "perplexity")
    study.change(paths[1], change)
    found = study.mean()
    assert found["flags"].startswith(flag)
    assert not math.isnan(found["knee"])
    assert pd.isna([found["ci_low"], found["ci_high"], found["interval"]]).all()


def test_without_examples_seeds_are_resampled_alone(study: Study) -> None:
    study.dense("finetune", (0, 1, 2))
    study.curve("magnitude", "finetune", (0, 1, 2))
    knees = analyse(pd.DataFrame(study.rows), SETTINGS, Examples()).knees
    mean = knees[knees["seed"].isna() & knees["knee"].notna()]
    assert set(mean["interval"]) == {"seeds"}
    assert knees.loc[knees["seed"].notna(), "ci_low"].isna().all()
    next(study.folder.rglob("*.examples.parquet")).unlink()
    assert study.mean()["flags"].startswith("examples of some levels are missing: not resampled")


def test_levels_with_different_seeds_have_a_knee_but_no_interval(study: Study) -> None:
    study.dense("finetune", (0, 1))
    study.curve("magnitude", "finetune", (0, 1))
    study.rows = [row for row in study.rows if (row["seed"], row["sparsity"]) != (1, 0.4)]
    found = study.mean()
    assert found["flags"] == UNEVEN_SEEDS
    assert not math.isnan(found["knee"])
    assert math.isnan(found["ci_low"])


def test_a_level_that_no_seed_has_a_value_for_leaves_no_knee(study: Study) -> None:
    study.dense("finetune", (0, 1))
    study.curve("magnitude", "finetune", (0, 1))
    study.rows = [{**row, "value": math.nan} if row["sparsity"] == 0.4 else row for row in study.rows]
    found = study.mean()
    assert pd.isna([found["knee"], found["ci_low"], found["ci_high"], found["interval"]]).all()
    assert "40 %" in found["flags"]
    curve = study.analysis().curves
    assert curve.loc[curve["sparsity"] == 0.4, ["value", "ci_low", "ci_high"]].isna().to_numpy().all()


def test_dense_models_of_other_seeds_are_no_sample(study: Study) -> None:
    study.dense("finetune", (0, 1))
    study.curve("magnitude", "finetune", (2,))
    found = study.mean()
    assert math.isnan(found["ci_low"])
    assert found["flags"] == "a level with several values of one seed: no interval"


def test_methods_are_compared_on_the_same_draws(study: Study) -> None:
    study.dense("finetune", (0, 1, 2))
    study.curve("magnitude", "finetune", (0, 1, 2))
    study.curve("random", "finetune", (0, 1, 2))
    rows = study.analysis().differences
    row = rows[rows["rule"] == "tolerance"].iloc[0]
    assert (row["kind"], row["difference"], row["ci_low"], row["ci_high"]) == ("methods", 0.0, 0.0, 0.0)
    assert row["p_value"] == 1.0
