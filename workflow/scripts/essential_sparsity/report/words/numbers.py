"""Numbers in words: a knee, a value, an interval, a range, a rule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from essential_sparsity.checkpoints.steps import checkpoint_label
from essential_sparsity.knees.readings import LEFT, RIGHT, Settings
from essential_sparsity.knees.rules import RULE_NAMES
from essential_sparsity.metrics.registry import metric_of
from essential_sparsity.tables import Row

PAPER = "Jaiswal et al. 2023"
SUMMARY_COLUMNS = 110
_CURVE = ["model", "checkpoint", "task_name", "method_name"]
EPSILON = 1e-9


def finding_key(axes: Row) -> tuple[str, str, str, str]:
    """Return what names a curve among findings."""
    return axes["model"], axes["checkpoint"], axes["task"], axes["method"]


def percent(fraction: float) -> str:
    """Write a fraction as per cent with at most one decimal: ``15 %``, ``76.3 %``."""
    return f"{round(100 * fraction, 1):g} %"


def value_text(value: float, metric: str) -> str:
    """Write a value of a metric: fractions in per cent, correlations and nats with three decimals."""
    unit = metric_of(metric).unit
    if unit == "fraction":
        return f"{100 * value:.1f} %"
    if unit == "correlation":
        return f"{value:.3f}"
    if unit == "nats":
        return f"{value:.3f} nats"
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}" if value < 1e7 else f"{value:.1e}"


def knee_text(row: Row) -> str:
    """Write the knee of a headline row for a table: ``15 %``, ``< 5 %``, ``>= 95 %`` or ``none``."""
    if pd.isna(row["knee"]):
        return "none"
    if row["censored"] == LEFT:
        return f"< {percent(row['first_level'])}" if below_first(row) else f"<= {percent(row['knee'])}"
    return f">= {percent(row['knee'])}" if row["censored"] == RIGHT else percent(row["knee"])


def value_at_knee_text(row: Row) -> str:
    """Write the metric at a headline row's knee; a dash where there is no knee, or none among the levels."""
    if pd.isna(row["knee"]) or (row["censored"] == LEFT and below_first(row)):
        return "-"
    return value_text(row["value_at_knee"], row["metric"])


def range_text(lowest: float, highest: float) -> str:
    """Write a range of knees for a table: ``10 to 25 %``; ``none`` where there is no knee."""
    if pd.isna(lowest):
        return "none"
    if percent(lowest) == percent(highest):
        return percent(lowest)
    return f"{percent(lowest).removesuffix(' %')} to {percent(highest)}"


def interval_text(row: Row) -> str:
    """Write the interval of a knee: none of one before the first level, after the last its lower bound alone."""
    if pd.isna(row["ci_low"]) or row["censored"] == LEFT:
        return "-"
    if row["censored"] == RIGHT:
        return f"from {percent(row['ci_low'])} on"
    return range_text(row["ci_low"], row["ci_high"])


def rule_text(settings: Settings) -> str:
    """Write how the headline's knees are read: ``At 2 % tolerance`` or ``By the rule Kneedle``.

    Args:
        settings: The study's ``knees``: ``rules``, the headline's first, and what the first needs.
    """
    rule = settings.rules[0]
    if rule != "tolerance":
        return f"By the rule {RULE_NAMES.get(rule, rule)}"
    loss = settings.loss
    return "At " + _TOLERANCES[loss].format(share=percent(settings.tolerance), points=_points(settings))


_TOLERANCES = {
    "relative": "{share} tolerance",
    "absolute": "a tolerance of {points}",
    "above_chance": "{share} tolerance above chance",
}

_LOSSES = {
    "relative": "{share} relative to the dense model: of accuracy, or of the logarithm of perplexity",
    "absolute": "{points}",
    "above_chance": "{share} of what the dense model has above chance: in accuracy, or in the logarithm of perplexity",
}


def _points(settings: Settings) -> str:
    """Write an absolute tolerance: ``2 points (of perplexity, 0.02 nats)``."""
    return f"{round(100 * settings.tolerance, 6):g} points (of perplexity, {settings.tolerance:g} nats)"


def reading_note(settings: Settings) -> str:
    """Say how the headline's knees are defined, for the line below their table."""
    if settings.rules[0] != "tolerance":
        name = RULE_NAMES.get(settings.rules[0], settings.rules[0])
        return f"Knees of the mean curve over the seeds by the rule {name}."
    loss = _LOSSES[settings.loss]
    lost = loss.format(share=percent(settings.tolerance), points=_points(settings))
    return (
        f"A knee is the sparsity at which the mean curve over the seeds, linearly interpolated between levels, first "
        f"loses more than {lost}."
    )


def resolution_text(row: Row) -> str:
    """Write the levels between which a knee by the rule ``tolerance`` lies: ``70 to 80 %``; a dash where none do."""
    if pd.isna(row["grid_low"]) or pd.isna(row["grid_high"]):
        return "-"
    return f"{percent(row['grid_low']).removesuffix(' %')} to {percent(row['grid_high'])}"


def below_first(row: Row) -> bool:
    """Say whether a knee lies below the first level that was tried."""
    return bool(row["knee"] < row["first_level"] - EPSILON)


def ending_text(row: Row) -> str:
    """Say where the levels end before the knee is found; empty where they do not."""
    if row["censored"] == LEFT:
        return "the first level tried" if below_first(row) else "the lowest that these levels can show"
    if row["censored"] == RIGHT:
        last = row["knee"] > row["last_level"] - EPSILON
        return "the last level tried" if last else "the highest that these levels can show"
    return ""


def groups_of(rows: pd.DataFrame, axes: list[str]) -> Iterator[list[Row]]:
    """Yield the rows that share axes."""
    for _, group in rows.groupby(axes, sort=False):
        yield records(group)


def records(frame: pd.DataFrame) -> list[Row]:
    """Return the rows of a frame as mappings from column to value."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def subject_of(row: Row) -> str:
    """Return what a sentence is about: a model at a checkpoint."""
    return f"{row['model']} ({checkpoint_label(row['checkpoint'])})"


def steps_apart(knee: float, other: float, levels: Sequence[float]) -> float:
    """Return by how many steps of a grid a knee lies above another; between levels, in fractions of a step.

    Args:
        knee: A sparsity.
        other: A sparsity.
        levels: The grid, ascending, with 0 for the dense model.
    """
    places = np.arange(len(levels), dtype=float)
    return float(np.interp(knee, levels, places) - np.interp(other, levels, places))


# Two curves, each by model, checkpoint, task and method.
Pair = frozenset[tuple[Any, ...]]


def curve_key(row: Row) -> tuple[Any, ...]:
    """Return what names the curve of a row."""
    return tuple(row[axis] for axis in _CURVE)


def capitalised(text: str) -> str:
    """Begin a text with a capital."""
    return text[:1].upper() + text[1:]
