"""From evaluations to knees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from essential_sparsity.knee import find_knee, value_at
from essential_sparsity.metrics import performance, value_of
from essential_sparsity.tables import curves, mean_curve


def find_knees(evaluations: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Read the knees of every curve: by each rule, for each seed and for the mean curve over the seeds.

    Args:
        evaluations: Rows of the table of evaluations.
        settings: The study's ``knees``: ``rules`` and what they need.

    Returns:
        Rows of the table of knees.
    """
    rows: list[dict[str, Any]] = []
    for axes, frame in curves(evaluations):
        seeds = sorted(frame["seed"].unique())
        parts: Iterator[tuple[Any, pd.DataFrame]] = ((seed, frame[frame["seed"] == seed]) for seed in seeds)
        for seed, part in [*parts, (pd.NA, frame)]:
            flags = sorted({flag for flag in part.loc[part["method"] == "dense", "flags"] if flag})
            seeds_of_levels = seeds_by_level(part)
            if seeds_of_levels[seeds_of_levels > 0].nunique() > 1:
                flags.append("levels with different seeds")
            curve = mean_curve(part)
            sparsity, value = curve["sparsity"].to_numpy(float), curve["value"].to_numpy(float)
            score = performance(value, axes["metric"])
            chance = chance_score(part, axes["metric"])
            for rule in settings["rules"]:
                found = find_knee(sparsity, score, rule, settings, chance)
                rows.append({
                    **axes, "seed": seed, "rule": rule, "knee": np.nan if found.knee is None else found.knee,
                    "grid_low": np.nan if found.grid_low is None else found.grid_low,
                    "grid_high": np.nan if found.grid_high is None else found.grid_high, "censored": found.censored,
                    "dense_value": value[0] if len(sparsity) and sparsity[0] == 0 else np.nan,
                    # On the scale of the score, on which the rules see a line between two levels.
                    "value_at_knee": float(value_of(np.array(value_at(sparsity, score, found.knee)), axes["metric"])),
                    "n_seeds": part["seed"].nunique(), "flags": "; ".join([*flags, *found.flags]),
                })  # fmt: skip
    return pd.DataFrame(rows)


def seeds_by_level(rows: pd.DataFrame) -> pd.Series[int]:
    """Return how many seeds have a value at each level of a curve."""
    return rows.assign(seed=rows["seed"].where(rows["value"].notna())).groupby("sparsity")["seed"].nunique()


def chance_score(rows: pd.DataFrame, metric: str) -> float | None:
    """Return the performance of a model that knows nothing, on the scale of a curve's score; None if not known.

    Args:
        rows: The rows of a curve.
        metric: What their values are.
    """
    chance = float(rows["chance"].mean())
    return float(performance(np.array([chance]), metric)[0]) if np.isfinite(chance) else None


def headline(knees: pd.DataFrame, rule: str) -> pd.DataFrame:
    """Return the rows of the mean curves by the headline rule, and how far the rules lie apart.

    Returns:
        The rows with ``lowest`` and ``highest``, the range of the knees over the rules.
    """
    mean = knees[knees["seed"].isna()]
    axes = ["model", "checkpoint", "task", "method"]
    spread = mean.groupby(axes)["knee"].agg(lowest="min", highest="max").reset_index()
    return mean[mean["rule"] == rule].merge(spread, on=axes).sort_values(axes, ignore_index=True)
