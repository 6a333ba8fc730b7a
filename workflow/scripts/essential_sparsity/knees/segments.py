"""The rule ``two-segment``: the joint of the best continuous fit of two lines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from essential_sparsity.inference import Floats
from essential_sparsity.knees.readings import CODES, LEFT, RIGHT, ROUNDING, Readings, Settings, nothing

# Above this probability under a straight line the joint is doubted.
_DOUBT = 0.05


@dataclass(frozen=True)
class _Fits:
    """The best fits of many curves under one condition on the joint; of shape (draws,).

    Attributes:
        joint: The joint.
        slope: The slope after it.
        bend: The slope after it minus the slope before it.
        error: The sum of squared residuals.
    """

    joint: Floats
    slope: Floats
    bend: Floats
    error: Floats


def read_two_segments(sparsity: Floats, scores: Floats, settings: Settings, chance: float | None) -> Readings:
    """Return the joint of the best continuous fit of two lines that falls faster after the joint, by least squares.

    ``y(s) = a + b s + c max(0, s - knee)`` with ``c < 0`` and ``b + c < 0``. The fit is exact, not a search: between
    two levels the best joint is where the lines fitted to either side cross; if they cross elsewhere it is a level
    (Hudson, Fitting segmented curves whose join points have to be estimated, JASA 1966). The joint lies between the
    second and the last but one level, since a line through a single level fits anything; at these it is censored.

    Fails: noise on a straight decline nearly always has such a joint; where a curve ends on a floor the second line
    spans cliff and floor, and the joint lies before the cliff; a smooth decline gets a joint that depends on the range.
    """
    fits = [_joined_at(sparsity, scores, j) for j in range(1, len(sparsity) - 1)]
    fits += [_joined_between(sparsity, scores, k) for k in range(1, len(sparsity) - 2)]
    joints, slopes, bends, errors = (
        np.stack([getattr(fit, name) for fit in fits]) for name in ("joint", "slope", "bend", "error")
    )
    # A curve that is flat or straight bends by rounding alone.
    least = ROUNDING * np.abs(scores).max(axis=1) / (sparsity[-1] - sparsity[0])
    errors[~((bends < -least) & (slopes < -least))] = np.inf
    best = errors.argmin(axis=0)
    draws = np.arange(len(scores))
    found = nothing(len(scores))
    joint = joints[best, draws]
    fitting = np.isfinite(errors[best, draws])
    found.knee[fitting] = joint[fitting]
    found.censored[fitting & (joint == sparsity[1])] = CODES[LEFT]
    found.censored[fitting & (joint == sparsity[-2])] = CODES[RIGHT]
    return found


def explain_two_segments(
    sparsity: Floats, score: Floats, settings: Settings, chance: float | None, knee: float | None
) -> tuple[str, ...]:
    """Say that a curve does not bend, or that its joint may be noise.

    The doubt is an F test with two degrees of freedom for the joint and the bend, whose tail is
    ``(SSE of two segments / SSE of a line) ** ((n - 4) / 2)``. Since the joint was chosen it is too lenient.
    """
    if knee is None:
        return ("the curve does not fall faster after the joint",)
    straight = _residuals(np.vander(sparsity, 2), score)
    joined = _residuals(_design(sparsity, knee), score)
    if straight == 0.0:
        return ()
    probability = (min(joined, straight) / straight) ** ((len(sparsity) - 4) / 2)
    return ("two segments fit no better than a line does by chance",) if probability > _DOUBT else ()


def _design(sparsity: Floats, joint: float) -> Floats:
    return np.stack([np.ones_like(sparsity), sparsity, np.maximum(0.0, sparsity - joint)], axis=1)


def _residuals(design: Floats, score: Floats) -> float:
    coefficients = np.linalg.lstsq(design, score, rcond=None)[0]
    return float(((score - design @ coefficients) ** 2).sum())


def _joined_at(sparsity: Floats, scores: Floats, position: int) -> _Fits:
    """Fit two lines that join at a level."""
    joint = sparsity[position]
    design = _design(sparsity, joint)
    coefficients = scores @ np.linalg.pinv(design).T
    error = ((scores - coefficients @ design.T) ** 2).sum(axis=1)
    slope = coefficients[:, 1] + coefficients[:, 2]
    return _Fits(np.full(len(scores), joint), slope, coefficients[:, 2], error)


def _joined_between(sparsity: Floats, scores: Floats, last: int) -> _Fits:
    """Fit a line to the levels up to ``last`` and one to the others; NaN where they do not cross between the two."""
    error = np.zeros(len(scores))
    lines = []
    for part in (slice(0, last + 1), slice(last + 1, None)):
        design = np.vander(sparsity[part], 2)
        line = scores[:, part] @ np.linalg.pinv(design).T
        error += ((scores[:, part] - line @ design.T) ** 2).sum(axis=1)
        lines.append(line)
    (slope_before, start), (slope, start_after) = lines[0].T, lines[1].T
    bend = slope - slope_before
    with np.errstate(divide="ignore", invalid="ignore"):
        joint = (start - start_after) / bend
        crossing = (joint > sparsity[last]) & (joint < sparsity[last + 1])
    return _Fits(joint, slope, np.where(crossing, bend, np.nan), error)
