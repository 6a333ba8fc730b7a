"""Knees: the essential sparsity of a curve, read by rules that are known to disagree.

A curve is performance over sparsity, dense first. Performance is the metric where higher is better; perplexity is taken
as minus its logarithm (nats a token), the scale on which losses add up. docs/knees.md compares the rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from essential_sparsity.inference import Floats
from essential_sparsity.knees.bayes import explain_bayes, read_bayes
from essential_sparsity.knees.curvature import explain_curvature, read_curvature
from essential_sparsity.knees.kneedle import explain_kneedle, read_kneedle
from essential_sparsity.knees.readings import (  # fmt: skip
    CODES,
    LEFT,
    NOT_CENSORED,
    RIGHT,
    Explain,
    Knee,
    Readings,
    ReadMany,
    Settings,
    nothing,
)
from essential_sparsity.knees.segments import explain_two_segments, read_two_segments
from essential_sparsity.knees.tolerance import enclosing_levels, explain_tolerance, read_tolerance

__all__ = [
    "LEFT", "NOT_CENSORED", "RIGHT", "RULES", "RULE_NAMES", "Knee", "Readings", "Rule", "find_knee", "find_many",
    "value_at",
]  # fmt: skip


def _between_no_levels(
    sparsity: Floats, score: Floats, settings: Settings, chance: float | None
) -> tuple[float | None, float | None]:
    return None, None


@dataclass(frozen=True)
class Rule:
    """A rule that reads knees.

    Attributes:
        label: What a reader calls it.
        least_levels: With fewer levels, the dense model among them, it says nothing.
        read: Reads the knees of many curves; its docstring gives formula, source and failure modes.
        explain: Says of a curve why it has no knee, or why its knee should be doubted.
        enclose: The levels that enclose a knee, where the rule rests on two of them.
    """

    label: str
    least_levels: int
    read: ReadMany
    explain: Explain
    enclose: Callable[[Floats, Floats, Settings, float | None], tuple[float | None, float | None]] = _between_no_levels


RULES: dict[str, Rule] = {
    "tolerance": Rule("tolerance", 3, read_tolerance, explain_tolerance, enclosing_levels),
    "kneedle": Rule("Kneedle", 4, read_kneedle, explain_kneedle),
    "two-segment": Rule("two segments", 5, read_two_segments, explain_two_segments),
    "curvature": Rule("largest curvature", 5, read_curvature, explain_curvature),
    "bayes": Rule("Bayes", 7, read_bayes, explain_bayes),
}

# What a reader calls the rules.
RULE_NAMES = {name: rule.label for name, rule in RULES.items()}


# Curves that are read together: some rules need arrays of hundreds of numbers a curve.
_TOGETHER = 1000


def find_knee(sparsity: Floats, score: Floats, rule: str, settings: Settings, chance: float | None = None) -> Knee:
    """Apply a rule to a curve.

    Args:
        sparsity: Ascending levels; the first must be 0, the dense model.
        score: Performance at each level, higher is better.
        rule: A key of :data:`RULES`.
        settings: The study's ``knees``.
        chance: The performance of a model that knows nothing, on the scale of ``score``; None where it is not known.

    Returns:
        The knee; null with the reason where the rule finds none, or where the curve has no dense value, too few levels
        for the rule, or a value that is not finite.
    """
    if fault := _fault(sparsity, rule) or _not_finite(sparsity, score):
        return Knee(None, flags=(fault,))
    applied = RULES[rule]
    readings = applied.read(sparsity, score[None], settings, chance)
    knee = None if np.isnan(readings.knee[0]) else float(readings.knee[0])
    flags = applied.explain(sparsity, score, settings, chance, knee)
    if knee is None:
        return Knee(None, flags=flags)
    censored = next(name for name, code in CODES.items() if code == readings.censored[0])
    return Knee(knee, censored, flags, *applied.enclose(sparsity, score, settings, chance))


def find_many(sparsity: Floats, scores: Floats, rule: str, settings: Settings, chance: float | None = None) -> Readings:
    """Apply a rule to many curves on one grid, as :func:`find_knee` does to each.

    Args:
        sparsity: Ascending levels, of shape (levels,); the first must be 0, the dense model.
        scores: Performance of each curve at each level, of shape (draws, levels), higher is better.
        rule: A key of :data:`RULES`.
        settings: The study's ``knees``.
        chance: The performance of a model that knows nothing, on the scale of ``scores``; None where it is not known.
    """
    found = nothing(len(scores))
    if _fault(sparsity, rule):
        return found
    rows = np.flatnonzero(np.isfinite(scores).all(axis=1))
    for start in range(0, len(rows), _TOGETHER):
        part = rows[start : start + _TOGETHER]
        readings = RULES[rule].read(sparsity, scores[part], settings, chance)
        found.knee[part] = readings.knee
        found.censored[part] = readings.censored
    return found


def _fault(sparsity: Floats, rule: str) -> str:
    """Say why a rule cannot be applied to a grid; empty if it can."""
    if len(sparsity) == 0 or sparsity[0] != 0:
        return "no dense value"
    least = RULES[rule].least_levels
    return f"fewer than {least} levels for {RULES[rule].label}" if len(sparsity) < least else ""


def _not_finite(sparsity: Floats, score: Floats) -> str:
    """Say at which levels a curve has no finite value; empty if there are none."""
    levels = ", ".join(f"{100 * level:g} %" for level in sparsity[~np.isfinite(score)])
    return f"no finite value at {levels}" if levels else ""


def value_at(sparsity: Floats, value: Floats, knee: float | None) -> float:
    """Return the score at the knee, linearly interpolated between levels; NaN where there is no knee."""
    return math.nan if knee is None else float(np.interp(knee, sparsity, value))
