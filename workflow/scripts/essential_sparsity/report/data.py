"""What the report's interactive figures draw: the tables as one JSON text inside the page, rounded and bounded.

The page's script draws everything from it. Sparsities and fractions are in per cent, other metrics in their own unit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from essential_sparsity.checkpoints.steps import checkpoint_age, checkpoint_label, step_of
from essential_sparsity.emergence.places import STATISTICS, matrix_places, weighted_mean
from essential_sparsity.knees.rules import RULE_NAMES
from essential_sparsity.metrics.registry import metric_of
from essential_sparsity.report.words.numbers import records
from essential_sparsity.tables import Row

# About 1.5 MB of text; further masks stay in the table of layers.
CELLS = 400_000
# Curves are a line of text each: these are a few MB.
CURVES = 10_000
UNITS = {"fraction": "%", "correlation": "-1 to 1", "perplexity": "", "nats": "nats a token"}
ALL_MATRICES = "all, weighted by size"

# What the page's script reads.
Json = dict[str, Any]

_AXES = ["model", "checkpoint", "task", "method"]
_DIGITS = 5


def as_json(value: Any) -> str:
    """Return JSON that can stand in a ``<script>`` element: no name ends the element or opens a comment in it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def curve_data(levels: pd.DataFrame, knees: pd.DataFrame) -> list[Json]:
    """Return every curve with its levels and its knees.

    Args:
        levels: The table of curves.
        knees: The table of knees; those of single seeds are left out.
    """
    mean = knees[knees["seed"].isna()]
    read = {key: records(part) for key, part in mean.groupby(_AXES, sort=False)}
    found = []
    for key, part in list(levels.groupby(_AXES, sort=False))[:CURVES]:
        rows = part.sort_values("sparsity")
        metric = str(rows["metric"].iloc[0])
        scale = _scale(metric)
        found.append({
            **dict(zip(_AXES, map(str, key), strict=True)), "metric": metric,
            "sparsity": _rounded(rows["sparsity"] * 100),
            **{name: _rounded(rows[column] * scale) for name, column in _VALUES.items()},
            "seeds": rows["n_seeds"].astype(int).tolist(), "n": rows["n"].astype(int).tolist(),
            "knees": [_knee(row, scale) for row in read.get(key, [])],
        })  # fmt: skip
    return found


_VALUES = {"value": "value", "low": "ci_low", "high": "ci_high"}


def _knee(row: Row, scale: float) -> Json:
    places = {"knee": "knee", "low": "ci_low", "high": "ci_high", "gridLow": "grid_low", "gridHigh": "grid_high"}
    # As everywhere in the report, a knee has one decimal of a per cent.
    found = {name: None if pd.isna(row[column]) else round(100 * row[column], 1) for name, column in places.items()}
    text = {name: row[name] for name in ("rule", "censored", "flags")}
    return {**text, **found, "value": _number(row["value_at_knee"], scale)}


def map_data(layers: pd.DataFrame, cells: int = CELLS) -> Json:
    """Return the share that every prunable matrix gives, mask by mask, as whole per mille.

    Where that were more than ``cells`` numbers, the last checkpoints come first, and every second level goes before
    the next checkpoint does.

    Args:
        layers: The table of layers; of several seeds the first is taken.
        cells: The most numbers to return.

    Returns:
        ``matrices``, for each model the ``kind`` and ``block`` of its matrices; ``masks``, each with the ``shares`` in
        the order of the matrices; ``left_out``, the number of masks that had no room.
    """
    pruned = layers[layers["pruned"]]
    firsts = pruned.groupby(["model", "checkpoint", "method"])["seed"].transform("min")
    pruned = pruned[pruned["seed"] == firsts].sort_values("position")
    matrices, masks = {}, []
    for model, mine in pruned.groupby("model", sort=False):
        places = matrix_places(mine["name"])
        matrices[str(model)] = {"kind": places["kind"].tolist(), "block": places["block"].tolist()}
        for (checkpoint, method, level), mask in mine.groupby(["checkpoint", "method", "sparsity"], sort=True):
            shares = mask.set_index("name")["realised"].reindex(places["name"])
            masks.append({
                "model": str(model), "checkpoint": str(checkpoint), "method": str(method),
                "level": _number(level, 100),
                "shares": [None if math.isnan(v) else round(1000 * v) for v in shares.tolist()],
            })  # fmt: skip
    kept = _within(masks, cells)
    return {"matrices": matrices, "masks": kept, "left_out": len(masks) - len(kept)}


def _within(masks: list[Json], cells: int) -> list[Json]:
    """Return the masks that have room, in their order."""
    newest: dict[str, float] = {}
    for mask in masks:
        newest[mask["model"]] = max(newest.get(mask["model"], -1.0), checkpoint_age(mask["checkpoint"]))
    place: dict[tuple[str, str, str], int] = {}
    ranked = []
    for i, mask in enumerate(masks):
        own = mask["model"], mask["checkpoint"], mask["method"]
        place[own] = place.get(own, -1) + 1
        late = checkpoint_age(mask["checkpoint"]) == newest[mask["model"]]
        ranked.append((not late, place[own] % 2, i))
    sums = np.cumsum([len(masks[i]["shares"]) for _, _, i in sorted(ranked)])
    room = [i for (_, _, i), total in zip(sorted(ranked), sums, strict=True) if total <= cells]
    return [masks[i] for i in sorted(room)]


def weight_data(weights: pd.DataFrame) -> list[Json]:
    """Return statistics of the weights: over the steps of pre-training, or over the blocks of the only checkpoint.

    Args:
        weights: The table of weights.

    Returns:
        For each model ``along`` (``step`` or ``block``) and ``lines``: the ``kind`` of matrix, ``x``, and each
        statistic, a mean over the blocks.
    """
    found = []
    for model, mine in weights.groupby("model", sort=False):
        rows = mine.sort_values("position").merge(matrix_places(mine["name"]), on="name")
        steps = rows[rows["step"].notna()].assign(step=lambda frame: frame["step"].astype(float))
        along = "step" if steps["step"].nunique() > 1 else "block"
        last = max(rows["checkpoint"], key=checkpoint_age)
        shown = steps if along == "step" else rows[rows["checkpoint"] == last]
        lines = [
            _line(str(kind), {name: part.groupby(along)[name].mean() for name in STATISTICS})
            for kind, part in shown.groupby("kind", sort=False)
        ]
        if along == "step":
            lines.append(_line(ALL_MATRICES, {name: weighted_mean(shown, "step", name) for name in STATISTICS}))
        found.append({"model": str(model), "along": along, "checkpoint": last, "lines": lines})
    return found


def _line(kind: str, statistics: Mapping[str, pd.Series[float]]) -> Json:
    values = {
        name: _rounded(line * (100 if name.startswith("fraction") else 1)) for name, line in statistics.items()
    }  # fmt: skip
    return {"kind": kind, "x": _rounded(next(iter(statistics.values())).index.to_series()), **values}


def label_data(
    levels: pd.DataFrame,
    rules: Iterable[str],
    method_looks: Mapping[str, Json],
    method_labels: Mapping[str, str],
    task_labels: Mapping[str, str],
) -> Json:
    """Return what a reader calls things, and how lines look.

    Args:
        levels: The table of curves.
        rules: The study's rules, the headline's first.
        method_looks: How each method's line looks.
        method_labels: What a method is called, by its name in the registry.
        task_labels: What a task is called, by its name in the registry.
    """
    checkpoints = sorted(set(levels["checkpoint"]), key=checkpoint_age)
    return {
        "methods": [
            {"name": name, "label": method_labels.get(name, name), **look} for name, look in method_looks.items()
        ],
        "tasks": {name: task_labels.get(name, name) for name in levels["task"].unique()},
        "rules": {rule: RULE_NAMES.get(rule, rule) for rule in rules},
        "metrics": {
            name: {"label": metric_of(name).label, "unit": UNITS[metric_of(name).unit],
                   "kind": metric_of(name).unit, "logarithmic": metric_of(name).logarithmic}
            for name in sorted(set(levels["metric"]))
        },
        "checkpoints": [{"name": c, "label": checkpoint_label(c), "step": step_of(c)} for c in checkpoints],
        "statistics": STATISTICS,
        "allMatrices": ALL_MATRICES,
    }  # fmt: skip


def _scale(metric: str) -> float:
    return 100.0 if metric_of(metric).unit == "fraction" else 1.0


def _number(value: Any, scale: float = 1.0) -> float | None:
    """Round to five digits; None for what is missing or not finite, which JSON cannot say."""
    if pd.isna(value) or not math.isfinite(value):
        return None
    return float(f"{value * scale:.{_DIGITS}g}")


def _rounded(values: pd.Series[Any]) -> list[float | None]:
    return [_number(value) for value in values.astype(float).tolist()]
