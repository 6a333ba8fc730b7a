"""Knees: the essential sparsity of a curve, read by rules that are known to disagree.

A curve is performance over sparsity, dense first. Performance is the metric where higher is better; perplexity is taken
as minus its logarithm (nats a token), the scale on which losses add up.
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

# What float64 leaves of an exact zero after a least-squares fit, relative to the values that are fitted.
_ROUNDING = 1e-9

NOT_CENSORED, LEFT, RIGHT = "none", "left", "right"


@dataclass(frozen=True)
class Knee:
    """A rule's reading of a curve.

    Attributes:
        knee: The essential sparsity, in [0, 1); None where the rule finds none.
        censored: ``left`` if the first level already lies beyond it, ``right`` if the last level still lies before
            it, so that the true knee is outside the grid; else ``none``.
        flags: Why there is no knee, or why it should be doubted; empty if nothing is to be said.
    """

    knee: float | None
    censored: str = NOT_CENSORED
    flags: tuple[str, ...] = ()


def tolerance_knee(sparsity: Floats, score: Floats, settings: Mapping[str, Any]) -> Knee:
    """Return the last level before the first that loses more than a tolerance, relative to the dense model.

    ``score(s) >= score(0) - tolerance * |score(0)|``; the paper reads its curves at a drop of 1 %. It stops at the
    first failure: a later level that happens to recover does not count.
    """
    allowed = score[0] - settings["tolerance"] * abs(score[0])
    failed = np.flatnonzero(score < allowed)
    if failed.size == 0:
        return Knee(float(sparsity[-1]), RIGHT)
    first = int(failed[0])
    return Knee(float(sparsity[first - 1]), LEFT if first == 1 else NOT_CENSORED)


def kneedle_knee(sparsity: Floats, score: Floats, settings: Mapping[str, Any]) -> Knee:
    """Return the knee of Satopää et al. 2011 (Kneedle) for a concave, decreasing curve.

    It measures the distance from the chord between the curve's ends, so it depends on the plotted range, and it finds
    a knee in a curve that has no plateau.
    """
    if float(score.max() - score.min()) == 0.0:
        return Knee(None, flags=("flat curve",))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = KneeLocator(sparsity, score, S=settings["sensitivity"], curve="concave", direction="decreasing").knee
    if found is None:
        return Knee(None, flags=("Kneedle finds no knee",))
    # The last level as a knee means that the fall, if there is one, lies beyond the grid.
    return Knee(float(found), RIGHT if found == sparsity[-1] else LEFT if found == sparsity[0] else NOT_CENSORED)


def two_segment_knee(sparsity: Floats, score: Floats, settings: Mapping[str, Any]) -> Knee:
    """Return the joint of the best continuous fit of two lines, by least squares.

    ``score(s) = a + b s + c max(0, s - knee)``; the knee is searched on a fine grid between the second and the last
    but one level, since a line through a single level fits anything.
    """
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


Rule = Callable[[Floats, Floats, Mapping[str, Any]], Knee]

RULES: dict[str, Rule] = {
    "tolerance": tolerance_knee,
    "kneedle": kneedle_knee,
    "two-segment": two_segment_knee,
}


# What a reader calls the rules.
RULE_NAMES = {"tolerance": "tolerance", "kneedle": "Kneedle", "two-segment": "two segments"}


def find_knee(sparsity: Floats, score: Floats, rule: str, settings: Mapping[str, Any]) -> Knee:
    """Apply a rule to a curve.

    Args:
        sparsity: Ascending levels; the first must be 0, the dense model.
        score: Performance at each level, higher is better.
        rule: A key of :data:`RULES`.
        settings: The study's ``knees``.

    Returns:
        The knee; null with the reason where the curve has no dense value, a value that is not finite, or fewer than
        three levels.
    """
    if len(sparsity) == 0 or sparsity[0] != 0:
        return Knee(None, flags=("no dense value",))
    if len(sparsity) < 3:
        return Knee(None, flags=("fewer than 3 levels",))
    if not np.isfinite(score).all():
        return Knee(None, flags=("a value that is not finite",))
    return RULES[rule](sparsity, score, settings)


def value_at(sparsity: Floats, value: Floats, knee: float | None) -> float:
    """Return the metric at the knee, linearly interpolated between levels; NaN where there is no knee."""
    return math.nan if knee is None else float(np.interp(knee, sparsity, value))
