"""The rule ``kneedle``: Satopää et al. 2011, as the library ``kneed`` has it."""

from __future__ import annotations

import warnings

import numpy as np

from essential_sparsity.metrics import Floats
from essential_sparsity.readings import CODES, LEFT, RIGHT, Readings, Settings, is_flat, nothing


def read_kneedle(sparsity: Floats, scores: Floats, settings: Settings, chance: float | None) -> Readings:
    """Return the knees that Kneedle finds in concave, decreasing curves: always levels.

    Both axes are scaled to [0, 1]; the knee is a level at which the distance from the chord between the curve's ends
    has a local maximum, after which it falls by more than ``S`` mean steps of the grid. Source: Satopää, Albrecht,
    Irwin and Raghavan, Finding a "Kneedle" in a Haystack, ICDCS Workshops 2011. A level at an end of the grid is
    censored: the fall, if there is one, lies beyond.

    It runs the library curve by curve.

    Fails: it depends on the range of the levels; it finds a knee in noise, in a straight decline and in a curve that
    has no plateau; of a curve that falls to chance and stays there it returns the last level.
    """
    from kneed import KneeLocator

    found = nothing(len(scores))
    for i in np.flatnonzero(~is_flat(scores)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            locator = KneeLocator(
                sparsity, scores[i], S=settings["sensitivity"], curve="concave", direction="decreasing"
            )
        if locator.knee is not None:
            found.knee[i] = locator.knee
    found.censored[found.knee == sparsity[0]] = CODES[LEFT]
    found.censored[found.knee == sparsity[-1]] = CODES[RIGHT]
    return found


def explain_kneedle(
    sparsity: Floats, score: Floats, settings: Settings, chance: float | None, knee: float | None
) -> tuple[str, ...]:
    """Say why Kneedle finds nothing."""
    if knee is not None:
        return ()
    return ("flat curve",) if is_flat(score[None])[0] else ("Kneedle finds no knee",)
