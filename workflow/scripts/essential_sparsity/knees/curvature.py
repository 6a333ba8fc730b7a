"""The rule ``curvature``: where a monotone smooth of a curve bends most."""

from __future__ import annotations

import math

import numpy as np

from essential_sparsity.inference import Floats
from essential_sparsity.knees.readings import CODES, LEFT, RIGHT, Readings, Settings, is_flat, nothing

# The standard deviation of the kernel, as a fraction of the range of the levels.
BANDWIDTH = 0.075

# The curvature of the quarter circle in the unit square, level at first and upright at last: a gentler bend is no knee.
LEAST_CURVATURE = 1.0

# Where the smooth is evaluated, on the axis of sparsity scaled to [0, 1].
_PLACES = np.linspace(0.0, 1.0, 401)


def read_curvature(sparsity: Floats, scores: Floats, settings: Settings, chance: float | None) -> Readings:
    """Return where decreasing smooths of curves have their largest curvature, ``-y'' / (1 + y'^2)^(3/2)``.

    The smooth is the isotonic (non-increasing) least-squares fit, linearly interpolated between levels, extended at its
    ends, and convolved with a normal kernel, which keeps it monotone (Mammen, Estimating a smooth monotone regression
    function, Annals of Statistics 1991); its derivatives are exact sums over the levels. Both axes are scaled to
    [0, 1] first, since curvature depends on the units (Satopää et al. 2011, who define a knee so).

    Censored to the left, at the first level, where the place lies before it; to the right, at the last but one level,
    where it lies after that: there the smooth rests on how the curve is extended.

    Fails: the place depends on the bandwidth, 0.075 of the range, by which it lies before a sharp bend; it depends on
    the range of the levels; a curve that falls slowly at first and ever faster, without a plateau, has a largest
    curvature, too; of two cliffs it takes the sharper bend, not the first; noise of more than 1 % of the range may
    bend a straight decline enough.
    """
    found = nothing(len(scores))
    curvature = curvature_at(sparsity, scores, _PLACES)
    peak = curvature.argmax(axis=1)
    sharp = curvature.max(axis=1) >= LEAST_CURVATURE
    found.knee[sharp] = _refined(curvature, peak)[sharp] * sparsity[-1]
    found.censored[found.knee < sparsity[1]] = CODES[LEFT]
    found.censored[found.knee > sparsity[-2]] = CODES[RIGHT]
    return Readings(np.clip(found.knee, sparsity[1], sparsity[-2]), found.censored)


def explain_curvature(
    sparsity: Floats, score: Floats, settings: Settings, chance: float | None, knee: float | None
) -> tuple[str, ...]:
    """Say that a curve bends nowhere."""
    return () if knee is not None else ("no bend as sharp as a quarter circle",)


def curvature_at(sparsity: Floats, scores: Floats, places: Floats) -> Floats:
    """Return the downward curvature of decreasing smooths of curves; 0 of curves that do not fall.

    Args:
        sparsity: Ascending levels, of shape (levels,).
        scores: Scores at the levels, of shape (draws, levels).
        places: Where to evaluate it, on the axis of sparsity scaled to [0, 1], of shape (places,).

    Returns:
        The curvature (draws, places), both axes scaled to [0, 1].
    """
    from scipy.special import ndtr

    levels = sparsity / sparsity[-1]
    fitted = isotonic(scores)
    # A smooth that does not fall is a line, which has no curvature.
    fall = np.where(is_flat(fitted), np.inf, fitted[:, 0] - fitted[:, -1])
    slopes = np.diff(fitted, axis=1) / np.diff(levels) / fall[:, None]
    bends = np.diff(slopes, axis=1)
    # A line that bends at a level becomes, under the kernel, one whose slope changes by a normal distribution function.
    z = (places - levels[1:-1, None]) / BANDWIDTH
    second = bends @ (np.exp(-(z**2) / 2) / (BANDWIDTH * math.sqrt(2 * math.pi)))
    first = slopes[:, :1] + bends @ ndtr(z)
    return np.asarray(-second / (1 + first**2) ** 1.5, dtype=np.float64)


def isotonic(scores: Floats) -> Floats:
    """Return the non-increasing least-squares fits of curves, of shape (draws, levels).

    The fit at level i is the least over j <= i of the largest over k >= i of the mean of levels j to k (Robertson,
    Wright and Dykstra, Order restricted statistical inference, 1988, theorem 1.4.4). Over few levels that is far faster
    for many curves than pooling neighbours in one curve after the other, as ``scipy.optimize.isotonic_regression``.
    """
    levels = scores.shape[1]
    fitted = np.full(scores.shape, np.inf)
    for j in range(levels):
        means = np.cumsum(scores[:, j:], axis=1) / np.arange(1, levels - j + 1)
        largest = np.maximum.accumulate(means[:, ::-1], axis=1)[:, ::-1]
        fitted[:, j:] = np.minimum(fitted[:, j:], largest)
    return fitted


def _refined(curvature: Floats, peak: np.ndarray[tuple[int, ...], np.dtype[np.intp]]) -> Floats:
    """Return the place of the top of the parabola through the largest value and its neighbours."""
    inner = np.clip(peak, 1, len(_PLACES) - 2)
    draws = np.arange(len(curvature))
    before, at, after = (curvature[draws, inner + k] for k in (-1, 0, 1))
    bend = before - 2 * at + after
    with np.errstate(divide="ignore", invalid="ignore"):
        offset = np.where(bend < 0, (before - after) / (2 * bend), 0.0)
    step = _PLACES[1]
    return np.where(peak == inner, _PLACES[inner] + np.clip(offset, -1, 1) * step, _PLACES[peak])
