"""Curves: what names one, the rows that are one, and the mean over seeds."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

# What names a curve: model, checkpoint, method and task.
Curve = tuple[str, str, str, str]


def mean_curve(rows: pd.DataFrame) -> pd.DataFrame:
    """Return ``sparsity, value`` of a curve, ascending: the mean over the seeds at each level."""
    means = rows.groupby("sparsity", sort=True)["value"].mean()
    return pd.DataFrame({"sparsity": means.index, "value": means.to_numpy()})


_DENSE_AXES = ["model", "checkpoint", "task"]


def curves(evaluations: pd.DataFrame) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    """Yield each curve: its model, checkpoint, method, task and metric, and its rows with the dense model's first.

    The dense model is evaluated once for all methods and, where nothing is drawn, once for all seeds: a seed's curve
    takes the dense row of its seed, or else the only one there is. ``evaluated_seed`` is the seed that a row was
    evaluated with.
    """
    evaluations = evaluations.assign(evaluated_seed=evaluations["seed"])
    axes = ["model", "checkpoint", "method", "task", "metric"]
    dense = evaluations[evaluations["method"] == "dense"]
    dense_of = dict(list(dense.groupby(_DENSE_AXES)))
    for key, rows in evaluations[evaluations["method"] != "dense"].groupby(axes, sort=True):
        curve = dict(zip(axes, map(str, key), strict=True))
        same = dense_of.get(tuple(curve[axis] for axis in _DENSE_AXES), dense.iloc[:0])
        starts = []
        for seed in rows["seed"].unique():
            own = same[same["seed"] == seed]
            starts.append((own if len(own) else same).assign(seed=seed))
        yield curve, pd.concat([*starts, rows], ignore_index=True).sort_values(["seed", "sparsity"])
