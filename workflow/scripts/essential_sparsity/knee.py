"""Knees: the essential sparsity of a curve, read by rules that are known to disagree.

A curve is performance over sparsity, dense first. Performance is the metric where higher is better; perplexity is taken
as minus its logarithm (nats a token), the scale on which losses add up. docs/knees.md compares the rules.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from kneed import KneeLocator

from essential_sparsity.metrics import Floats
from essential_sparsity.readings import CODES, LEFT, NOT_CENSORED, RIGHT, Knee, Readings, Settings

__all__ = ["LEFT", "NOT_CENSORED", "RIGHT", "RULES", "RULE_NAMES", "Knee", "Readings", "find_knee", "find_many", "value_at"]

# What float64 leaves of an exact zero after a least-squares fit, relative to the values that are fitted.
_ROUNDING = 1e-9


def _allowed(dense, settings, chance):
    loss = settings.get("loss", "relative")
    if loss == "absolute":
        return dense - settings["tolerance"]
    if loss == "above_chance":
        return dense - settings["tolerance"] * (dense - chance)
    return dense - settings["tolerance"] * abs(dense)


def tolerance_knee(sparsity: Floats, score: Floats, settings: Mapping[str, Any], chance: float | None) -> Knee:
    if settings.get("loss", "relative") == "above_chance":
        if chance is None or not math.isfinite(chance):
            return Knee(None, flags=("chance is not known",))
        if score[0] <= chance:
            return Knee(None, flags=("the dense model is not above chance",))
    allowed = _allowed(score[0], settings, chance)
    failed = np.flatnonzero(score < allowed)
    if failed.size == 0:
        return Knee(float(sparsity[-1]), RIGHT, grid_low=float(sparsity[-1]))
    first = int(failed[0])
    share = (score[first - 1] - allowed) / (score[first - 1] - score[first])
    knee = float(sparsity[first - 1] + share * (sparsity[first] - sparsity[first - 1]))
    low = None if first == 1 else float(sparsity[first - 1])
    return Knee(knee, LEFT if first == 1 else NOT_CENSORED, grid_low=low, grid_high=float(sparsity[first]))


def kneedle_knee(sparsity: Floats, score: Floats, settings: Mapping[str, Any], chance: float | None) -> Knee:
    if float(score.max() - score.min()) == 0.0:
        return Knee(None, flags=("flat curve",))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = KneeLocator(sparsity, score, S=settings["sensitivity"], curve="concave", direction="decreasing").knee
    if found is None:
        return Knee(None, flags=("Kneedle finds no knee",))
    # The last level as a knee means that the fall, if there is one, lies beyond the grid.
    return Knee(float(found), RIGHT if found == sparsity[-1] else LEFT if found == sparsity[0] else NOT_CENSORED)


def two_segment_knee(sparsity: Floats, score: Floats, settings: Mapping[str, Any], chance: float | None) -> Knee:
    if len(sparsity) < 5:
        return Knee(None, flags=("fewer than 5 levels for two segments",))
    candidates = np.linspace(sparsity[1], sparsity[-2], 1001)
    errors = np.array([_two_segment_error(sparsity, score, c) for c in candidates])
    best = int(np.argmin(errors))
    # A curve that is flat or straight bends by rounding alone.
    fall = -_bend(sparsity, score, float(candidates[best])) * float(sparsity[-1] - sparsity[0])
    if fall <= _ROUNDING * float(np.abs(score).max()):
        return Knee(None, flags=("the curve does not fall faster after the joint",))
    censored = LEFT if best == 0 else RIGHT if best == len(candidates) - 1 else NOT_CENSORED
    return Knee(float(candidates[best]), censored)


def _design(sparsity: Floats, joint: float) -> Floats:
    return np.stack([np.ones_like(sparsity), sparsity, np.maximum(0.0, sparsity - joint)], axis=1)


def _two_segment_error(sparsity: Floats, score: Floats, joint: float) -> float:
    design = _design(sparsity, joint)
    coefficients = np.linalg.lstsq(design, score, rcond=None)[0]
    return float(((design @ coefficients - score) ** 2).sum())


def _bend(sparsity: Floats, score: Floats, joint: float) -> float:
    """Return the change of slope at the joint of the best fit."""
    return float(np.linalg.lstsq(_design(sparsity, joint), score, rcond=None)[0][2])


def _to_come(sparsity: Floats, score: Floats, settings: Mapping[str, Any], chance: float | None) -> Knee:
    return Knee(None, flags=("not there yet",))


RULES = {
    "tolerance": tolerance_knee,
    "kneedle": kneedle_knee,
    "two-segment": two_segment_knee,
    "curvature": _to_come,
    "bayes": _to_come,
}

# What a reader calls the rules.
RULE_NAMES = {
    "tolerance": "tolerance",
    "kneedle": "Kneedle",
    "two-segment": "two segments",
    "curvature": "curvature",
    "bayes": "Bayes",
}


def find_knee(
    sparsity: Floats, score: Floats, rule: str, settings: Settings, chance: float | None = None
) -> Knee:
    """Apply a rule to a curve.

    Args:
        sparsity: Ascending levels; the first must be 0, the dense model.
        score: Performance at each level, higher is better.
        rule: A key of :data:`RULES`.
        settings: The study's ``knees``.
        chance: The performance of a model that knows nothing, on the scale of ``score``; None where it is not known.

    Returns:
        The knee; null with the reason where the curve has no dense value, a value that is not finite, or too few
        levels for the rule.
    """
    if len(sparsity) == 0 or sparsity[0] != 0:
        return Knee(None, flags=("no dense value",))
    if len(sparsity) < 3:
        return Knee(None, flags=("fewer than 3 levels",))
    if not np.isfinite(score).all():
        return Knee(None, flags=("a value that is not finite",))
    return RULES[rule](sparsity, score, settings, chance)


def find_many(
    sparsity: Floats, scores: Floats, rule: str, settings: Settings, chance: float | None = None
) -> Readings:
    """Apply a rule to many curves on one grid, as :func:`find_knee` does to each.

    Args:
        sparsity: Ascending levels, of shape (levels,); the first must be 0, the dense model.
        scores: Performance of each curve at each level, of shape (draws, levels), higher is better.
        rule: A key of :data:`RULES`.
        settings: The study's ``knees``.
        chance: The performance of a model that knows nothing, on the scale of ``scores``; None where it is not known.
    """
    found = [find_knee(sparsity, score, rule, settings, chance) for score in scores]
    return Readings(
        np.array([np.nan if k.knee is None else k.knee for k in found], dtype=np.float64),
        np.array([CODES[k.censored] for k in found], dtype=np.int8),
    )


def value_at(sparsity: Floats, value: Floats, knee: float | None) -> float:
    """Return the metric at the knee, linearly interpolated between levels; NaN where there is no knee."""
    return math.nan if knee is None else float(np.interp(knee, sparsity, value))
