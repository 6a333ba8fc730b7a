"""The first rows of a report: each curve's knee, in words."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from essential_sparsity.checkpoints.steps import checkpoint_age
from essential_sparsity.knees.analysis import headline
from essential_sparsity.knees.curves import curves, mean_curve
from essential_sparsity.report.words.numbers import curve_key, finding_key, records
from essential_sparsity.tables import Row

_AXES = ["model", "checkpoint", "task", "method"]


def finding_rows(
    evaluations: pd.DataFrame,
    knees: pd.DataFrame,
    rule: str,
    method_labels: Mapping[str, str],
    task_labels: Mapping[str, str],
) -> pd.DataFrame:
    """Return the headline: a row a curve, with the knee of the mean curve over the seeds by one rule.

    Args:
        evaluations: The table of evaluations.
        knees: The table of knees, read from it.
        rule: The rule of the headline, the first of the study's ``knees.rules``.
        method_labels: What a method is called, by its name in the registry.
        task_labels: What a task is called, by its name in the registry.

    Returns:
        ``model, checkpoint, task, method, metric, dense_value, knee, grid_low, grid_high, ci_low, ci_high, interval,
        value_at_knee, lowest, highest`` (over the rules), ``seed_lowest, seed_highest`` (over the seeds, by the rule),
        ``censored, flags, seeds, first_level, value_at_first, last_level, score, scope, chance, rounds, task_name,
        method_name``; models and tasks in the order of the evaluations, checkpoints in that of pre-training, the
        largest knee first. Sparsities are fractions.
    """
    found = headline(knees, rule).rename(columns={"task": "task_name", "method": "method_name", "n_seeds": "seeds"})
    own = knees[knees["seed"].notna() & (knees["rule"] == rule)]
    spread = own.groupby(_AXES)["knee"].agg(["min", "max"]).to_dict("index")
    rows: list[Row] = []
    levels = {finding_key(axes): mean_curve(frame) for axes, frame in curves(evaluations)}
    known = {(row["model"], row["task"], row["method"]): row for row in records(evaluations)}
    for row in records(found):
        key = curve_key(row)
        curve = levels[key]
        pruned = curve[curve["sparsity"] > 0]
        seeds = spread.get(key, {"min": np.nan, "max": np.nan})
        method = known[row["model"], row["task_name"], row["method_name"]]
        rows.append({
            **row, "task": task_labels.get(row["task_name"], row["task_name"]),
            "method": method_labels.get(row["method_name"], row["method_name"]),
            "seed_lowest": seeds["min"], "seed_highest": seeds["max"], "first_level": pruned["sparsity"].iloc[0],
            "value_at_first": pruned["value"].iloc[0], "last_level": pruned["sparsity"].iloc[-1],
            "score": method["score"], "scope": method["scope"], "chance": method["chance"], "rounds": method["rounds"],
        })  # fmt: skip
    frame = pd.DataFrame(rows, columns=_COLUMNS)
    models, tasks = list(evaluations["model"].unique()), list(evaluations["task"].unique())
    order = frame.assign(
        model=frame["model"].map(models.index), task=frame["task_name"].map(tasks.index),
        age=frame["checkpoint"].map(checkpoint_age), rank=-frame["knee"].astype(float).fillna(-1.0),
        score=frame["score"].astype(str),
    )  # fmt: skip
    order = order.sort_values(["model", "task", "age", "rank", "score", "method_name"])
    return frame.loc[order.index].reset_index(drop=True)


_COLUMNS = [
    "model", "checkpoint", "task", "method", "metric", "dense_value", "knee", "grid_low", "grid_high", "ci_low",
    "ci_high", "interval", "value_at_knee", "lowest", "highest", "seed_lowest", "seed_highest", "censored", "flags",
    "seeds", "first_level", "value_at_first", "last_level", "score", "scope", "chance", "rounds", "task_name",
    "method_name",
]  # fmt: skip
