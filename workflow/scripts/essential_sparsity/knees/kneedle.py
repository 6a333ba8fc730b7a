"""The rule ``kneedle``: Satopää et al. 2011, on a smooth curve through the levels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from essential_sparsity.inference import Floats
from essential_sparsity.knees.readings import CODES, LEFT, RIGHT, Readings, Settings, is_flat, nothing


def read_kneedle(sparsity: Floats, scores: Floats, settings: Settings, chance: float | None) -> Readings:
    """Return the knees that Kneedle finds in concave, decreasing curves.

    A smooth curve is laid through the levels, as the paper's first step asks: the monotone cubic interpolant of Fritsch
    and Butland 1984 (PCHIP). Both axes are scaled to [0, 1]; the knee is the place where the distance from the chord
    between the curve's ends, ``y(u) - (1 - u)``, has a local maximum, below which it falls by more than ``S`` mean
    steps of the levels before it rises again. Places are taken from the last level to the dense model, and the first
    such is the knee. Source: Satopää, Albrecht, Irwin and Raghavan, Finding a "Kneedle" in a Haystack, ICDCS Workshops
    2011. The maxima are exact, those of cubics: nothing depends on how finely the curve is sampled.

    Censored to the left, at the first level, where the place lies before it; to the right, at the last but one level,
    where it lies after that: there the smooth curve rests on the end of the levels alone.

    Fails: it depends on the range of the levels; it finds a knee in noise, in a straight decline and in a curve that
    has no plateau; of a curve that falls to chance and stays there it returns the end of the levels.
    """
    found = nothing(len(scores))
    rows = np.flatnonzero(~is_flat(scores))
    if rows.size == 0:
        return found
    places, distance = _turning_points(sparsity / sparsity[-1], _cubics(sparsity / sparsity[-1], scores[rows]))
    knee = first_knee(distance[:, ::-1], settings.sensitivity / (len(sparsity) - 1))
    place = places[:, ::-1][np.arange(len(rows)), knee] * sparsity[-1]
    found.knee[rows] = np.where(knee < 0, np.nan, place)
    found.censored[found.knee < sparsity[1]] = CODES[LEFT]
    found.censored[found.knee > sparsity[-2]] = CODES[RIGHT]
    return Readings(np.clip(found.knee, sparsity[1], sparsity[-2]), found.censored)


def chord_slope(sparsity: Floats, scores: Floats, places: Floats) -> Floats:
    """Return the slope of the distance of smooth curves from their chords; it is 0 at a knee.

    Args:
        sparsity: Ascending levels, of shape (levels,).
        scores: Scores of curves that are not flat, of shape (draws, levels).
        places: Where to evaluate it, on the axis of sparsity scaled to [0, 1], of shape (places,).

    Returns:
        The slopes (draws, places), both axes scaled to [0, 1].
    """
    levels = sparsity / sparsity[-1]
    segment = np.clip(np.searchsorted(levels, places, side="right") - 1, 0, len(levels) - 2)
    third, second, first, _ = _cubics(levels, scores)[:, :, segment]
    step = places - levels[segment]
    return np.asarray((3 * third * step + 2 * second) * step + first, dtype=np.float64)


def first_knee(distance: Floats, fall: float) -> npt.NDArray[np.intp]:
    """Return the first local maxima after which a distance falls by more than a given amount before it rises.

    Args:
        distance: Distances from the chord, from the sparse end to the dense, of shape (draws, places). What is equal
            to the place before counts as risen, so that of a level top the last place is the maximum.
        fall: By how much it must fall.

    Returns:
        The indices of the maxima, of shape (draws,); -1 where there is none.
    """
    draws = len(distance)
    knee = np.full(draws, -1)
    top, at_top = distance[:, 0].copy(), np.zeros(draws, dtype=np.intp)
    for i in range(1, distance.shape[1]):
        here = distance[:, i]
        rising = here >= distance[:, i - 1]
        top[rising], at_top[rising] = here[rising], i
        found = ~rising & (here < top - fall) & (knee < 0)
        knee[found] = at_top[found]
    return knee


def _cubics(levels: Floats, scores: Floats) -> Floats:
    """Return the cubics of the distance between levels, highest power first, of shape (4, draws, levels - 1)."""
    from scipy.interpolate import PchipInterpolator

    lowest = scores.min(axis=1, keepdims=True)
    scaled = (scores - lowest) / (scores.max(axis=1, keepdims=True) - lowest)
    cubics = np.array(PchipInterpolator(levels, scaled, axis=1).c.transpose(0, 2, 1))
    # The chord falls from 1 to 0.
    cubics[2] += 1.0
    cubics[3] -= 1.0 - levels[:-1]
    return cubics


def _value(cubics: Floats, step: Floats) -> Floats:
    third, second, first, constant = cubics
    return np.asarray(((third * step + second) * step + first) * step + constant, dtype=np.float64)


def _turning_points(levels: Floats, cubics: Floats) -> tuple[Floats, Floats]:
    """Return places between which the distance only rises or only falls, and the distance there; (draws, places)."""
    third, second, first, _ = cubics
    width = np.diff(levels)
    with np.errstate(divide="ignore", invalid="ignore"):
        # The stable form of the roots of the derivative.
        q = -(second + np.copysign(np.sqrt(second**2 - 3 * third * first), second))
        roots = (q / (3 * third), first / q)
    # A cubic that does not turn is cut at its thirds: any place will do, but that of a level would count as level.
    steps = [np.where((r > 0) & (r < width), r, width * k / 3) for k, r in enumerate(roots, 1)]
    inner = np.sort(np.stack([np.zeros_like(first), *steps], axis=2), axis=2)
    draws = len(first)
    places = (levels[:-1, None] + inner).reshape(draws, -1)
    distance = _value(cubics[..., None], inner).reshape(draws, -1)
    end = _value(cubics[:, :, -1], width[-1])[:, None]
    return np.append(places, np.full((draws, 1), levels[-1]), axis=1), np.append(distance, end, axis=1)


def explain_kneedle(
    sparsity: Floats, score: Floats, settings: Settings, chance: float | None, knee: float | None
) -> tuple[str, ...]:
    """Say why Kneedle finds nothing."""
    if knee is not None:
        return ()
    return ("flat curve",) if is_flat(score[None])[0] else ("Kneedle finds no knee",)
